-- Count an attempt at a secret before it is made, or say what became of it.
--
-- KEYS[1]  the address's key, {t:ADDRESS}
-- ARGV     what: try, confirm, failed, succeeded or withdrawn; the attempt's id; window and lease in ms; then for each counter, that of the name
--          first, the suffix of its key and its limit
-- A counter is a hash: failures, until when they count, until when they bar (all three or none), and for each attempt under way its id
-- with the end of its lease. One that is under way takes a place like a failure, as it may become one: failures and attempts under way
-- together never exceed the limit, beyond it there is one at a time. Each failure from the limit on bars for a time that doubles.
-- To confirm is to try and to succeed in one, of a secret that is presumably right.
-- Answers a try, and what is to be confirmed, with 0 (go on), -1 (others are under way: ask again) or the ms for which the address is barred.
local what, id, window, lease = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function read(key)
  local found = redis.call('HMGET', key, 'failures', 'until', 'bar')
  local under_way = redis.call('HLEN', key) - (found[1] and 3 or 0)
  if found[1] and tonumber(found[2]) > now then
    return tonumber(found[1]), tonumber(found[3]), under_way
  end
  return 0, 0, under_way
end

-- Short of a bar the window runs from the first failure: those that come rarely are never added up.
local function write(key, failures, bar)
  local ends = tonumber(redis.call('HGET', key, 'until') or 0)
  if bar > now or ends <= now then
    ends = math.max(now, bar) + window
  end
  redis.call('HSET', key, 'failures', failures, 'until', ends, 'bar', bar)
  redis.call('PEXPIRE', key, ends - now + lease)
end

-- An attempt whose worker died, or which took longer than its lease, is a failure: nobody knows better.
local function sweep(key, failures, bar)
  local lapsed = 0
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local is_state = fields[i] == 'failures' or fields[i] == 'until' or fields[i] == 'bar'
    if not is_state and tonumber(fields[i + 1]) <= now then
      redis.call('HDEL', key, fields[i])
      lapsed = lapsed + (tonumber(fields[i + 1]) + window > now and 1 or 0)
    end
  end
  if lapsed > 0 then
    write(key, failures + lapsed, bar)
  end
  return read(key)
end

local function try()
  local wait, is_full = 0, false
  for i = 5, #ARGV, 2 do
    local key, limit = KEYS[1] .. ARGV[i], tonumber(ARGV[i + 1])
    local failures, bar, under_way = read(key)
    if under_way >= math.max(1, limit - failures) then
      failures, bar, under_way = sweep(key, failures, bar)
    end
    wait = math.max(wait, bar - now)
    is_full = is_full or under_way >= math.max(1, limit - failures)
  end
  if wait > 0 or is_full then
    return wait > 0 and wait or -1
  end
  if what == 'confirm' then
    redis.call('HDEL', KEYS[1] .. ARGV[5], 'failures', 'until', 'bar')
    return 0
  end
  for i = 5, #ARGV, 2 do
    redis.call('HSET', KEYS[1] .. ARGV[i], id, now + lease)
    redis.call('PEXPIRE', KEYS[1] .. ARGV[i], 2 * window + lease)
  end
  return 0
end

if what == 'try' or what == 'confirm' then
  return try()
end
for i = 5, #ARGV, 2 do
  local key, limit = KEYS[1] .. ARGV[i], tonumber(ARGV[i + 1])
  redis.call('HDEL', key, id)
  if what == 'failed' then
    local failures = read(key) + 1
    local bar = 0
    if failures >= limit then
      bar = now + math.max(1, math.floor(math.min(window, window / 16 * 2 ^ math.min(failures - limit, 4))))
    end
    write(key, failures, bar)
  elseif what == 'succeeded' and i == 5 then
    redis.call('HDEL', key, 'failures', 'until', 'bar')
  end
end
return 0
