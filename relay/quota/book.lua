-- One user's account book, opened. The scripts that move something begin with this text, after the clock's and the rules':
--   WINDOW, RESOLUTION, KEEP (how long lapsed holds are kept) and LEASE in µs; RECORDS; CAP_FACTOR, CAP_LEAST, CAP_UNLIMITED
--
-- KEYS[1]      the user's hash, {u:NAME}. All other keys share its hash tag, so a script is one slot in a Cluster:
--   :log       zset, what was taken: member = number of the resolution bucket, score = units ever taken up to the end of it
--   :rlog      zset, the same for what the smarthost rejected
--   :open      zset, holds: member = id:units, score = end of the lease in µs
--   :lapsed    zset, holds whose lease has ended: not counted, not forgotten; score = when they lapsed. Those of long ago are dropped
--              when another one lapses; what is left of a user that never lapses again stays: some octets a hold. (It does not expire:
--              what leaves by itself would leave `marks` behind.)
--   :settles   list, the latest settles that charged something, written by post and read by verify alone. (An older version kept a
--              stream: it is written anew, as a list, with the first settle that finds it.)
-- The hash's fields that belong to the ledger:
--   taken      all counters, as form.lua tells
--   base       taken + rejected when the last settle without a record was made: by an older version, or with none to be kept
--
-- Because an entry carries the cumulative sum, the entry whose leaving makes room for n units is found by its score in O(log N):
-- the retry-after is searched, never scanned. Because `now` never runs backwards for a user, a store whose clock is set back
-- keeps every promise at the cost of a longer wait; what counts never depends on a relay's clock.
--
-- What it costs is the calls of redis.call, the strings and tables made, and what functions use of what is around them: each such local
-- costs as much as a string each time the script is run. So functions are given all they need, and the common way is written out.

-- Drop the entries of a log whose buckets are before `edge`; returns the cumulative sum up to the last one that ever was.
local function expire(key, sum, base, edge)
  local call = redis.call
  if sum == base then return base end
  local head = call('ZRANGE', key, 0, 0)
  if not head[1] or tonumber(head[1]) >= edge then return base end
  local low, high = 0, call('ZCARD', key) - 1  -- low has left; find the last that has
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if tonumber(call('ZRANGE', key, middle, middle)[1]) < edge then low = middle else high = middle - 1 end
  end
  base = tonumber(call('ZRANGE', key, low, low, 'WITHSCORES')[2])
  call('ZREMRANGEBYRANK', key, 0, low)
  return base
end

-- When the log's sum up to the last entry that has left will be `sum`: the first instant, in µs, at which the entry that brings it
-- there is outside every window that ends then, for all of its bucket is. More than the log has: if all in flight were taken now,
-- then. What is taken and not yet written is of this bucket, too.
local function freed(key, sum, bucket, resolution, window)
  local entry = redis.call('ZRANGEBYSCORE', key, sum, '+inf', 'LIMIT', 0, 1)
  return (tonumber(entry[1] or bucket) + 1) * resolution + window
end

local K, OPEN, call = KEYS[1], KEYS[1] .. ':open', redis.call

local raw = clock()
local f = call('HMGET', K, 'status', 'ostatus', 'gen', 'hourly', 'total', 'taken')
if not f[1] then return raw end  -- there is no such user
local hourly, total, counters = tonumber(f[4]), tonumber(f[5]), f[6]  -- nil: unlimited

-- A book that no script has written, or one of an earlier version, which had a field for each counter: they become one. Where there is
-- no digest of the holds yet (or another, `holds`), they are counted once, and :lapsed expires no more. But a digest that is not there
-- beside `sum` was taken away, and a sum that is another than its counters say stays (until HDEL of it): what verify would find shall not
-- be hidden. Every version wrote `last` with the others: a number beside which it is missing was put there by hand, over a whole book.
if not counters or #counters ~= SIZE then
  local was, number = call('HMGET', K, 'gone', 'rejected', 'rgone', 'held', 'marks', 'last', 'sum', 'rsum', 'holds'), {}
  for i = 1, 6 do number[i] = tonumber(string.match(was[i] or '0', '^%d+$')) end
  local taken, gone, rejected, rgone, held, marks, last = tonumber(string.match(counters or '0', '^%d+$')), unpack(number, 1, 6)
  if not (taken and gone and rejected and rgone and held and marks and last) or (counters and not was[6]) then
    return redis.error_reply('DAMAGED a counter of ' .. K .. ' is no number')
  end
  if not was[5] and (was[9] or not was[7]) then
    for _, key in ipairs({OPEN, K .. ':lapsed'}) do
      local holds = call('ZRANGE', key, 0, -1, 'WITHSCORES')
      for i = 1, #holds, 2 do marks = marks + mark(holds[i], tonumber(holds[i + 1])) end
    end
    call('PERSIST', K .. ':lapsed')
    if not was[9] and taken + rejected > 0 then call('HSET', K, 'base', taken + rejected) end
  end
  counters = form(taken, gone, rejected, rgone, held, marks, last, 0, 1)
  call('HSET', K, 'taken', counters)
  call('HDEL', K, 'gone', 'rejected', 'rgone', 'held', 'marks', 'last', 'holds')
  for field, sum in pairs({sum = taken - gone, rsum = rejected - rgone}) do
    local found = field == 'sum' and was[7] or field == 'rsum' and was[8]
    if found and tonumber(found) ~= sum then call('HSET', K, field, found .. ' instead of ' .. sum) else call('HDEL', K, field) end
  end
end
local taken, gone, rejected, rgone, held, marks, last, soonest, lapses, _, prefix = read(counters)
local now = math.max(raw, last)

-- What a script has done before it fails is not undone. So whatever moves something writes what follows from it at once, and whatever
-- can fail on a damaged book comes before the first write of what depends on it: a call that failed can be repeated, and counts once.

-- Move the holds whose lease has ended from open to lapsed.
if held ~= 0 and now >= soonest then
  local ended = call('ZRANGEBYSCORE', OPEN, '-inf', now, 'WITHSCORES')
  if ended[1] then
    local LAPSED = K .. ':lapsed'
    local old = call('ZRANGEBYSCORE', LAPSED, '-inf', now - KEEP, 'WITHSCORES')
    for i = 1, #old, 2 do marks = marks - mark(old[i], tonumber(old[i + 1])) end
    for i = 1, #ended, 2 do
      held = held - tonumber(string.match(ended[i], ':(%d+)$'))
      marks = marks - mark(ended[i], tonumber(ended[i + 1])) + mark(ended[i], now)
    end
    call('ZREMRANGEBYSCORE', LAPSED, '-inf', now - KEEP)
    for i = 1, #ended, 2 do call('ZADD', LAPSED, now, ended[i]) end
    call('ZREMRANGEBYSCORE', OPEN, '-inf', now)
    lapses = 1
    call('HSET', K, 'taken', form(taken, gone, rejected, rgone, held, marks, last, soonest, lapses, prefix))
  end
  soonest = math.min(tonumber(call('ZRANGE', OPEN, 0, 0, 'WITHSCORES')[2] or 0), now + LEASE)
end

-- Drop the entries that have left the window. The buckets before `edge` have; where it has not moved since, they are dropped already.
local bucket, edge = math.floor(now / RESOLUTION), math.floor((now - WINDOW) / RESOLUTION)
if edge > math.floor((last - WINDOW) / RESOLUTION) then
  local left = expire(K .. ':log', taken, gone, edge)
  if left ~= gone then
    gone = left
    call('HSET', K, 'taken', form(taken, gone, rejected, rgone, held, marks, last, soonest, lapses, prefix))
  end
  left = expire(K .. ':rlog', rejected, rgone, edge)
  if left ~= rgone then
    rgone = left
    call('HSET', K, 'taken', form(taken, gone, rejected, rgone, held, marks, last, soonest, lapses, prefix))
  end
end
