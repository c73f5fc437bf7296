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
--   taken      units ever taken;   gone   those of them that have left the window: the window's sum is taken - gone
--   rejected   units ever rejected; rgone likewise
--   sum, rsum  taken - gone and rejected - rgone once more: no script reads them, verify holds them against the rest
--   held       sum over :open
--   marks      sum over :open and :lapsed together of each hold's mark, modulo 2^32. No script reads the holds to write it, verify alone
--              counts it anew. (The score tells open from lapsed: one is after `last`, the other not.) An older version had `holds`
--   base       taken + rejected when the last settle without a record was made: by an older version, or with none to be kept
--   last       the latest `now` this book was written at, µs
--
-- Because an entry carries the cumulative sum, the entry whose leaving makes room for n units is found by its score in O(log N):
-- the retry-after is searched, never scanned. Because `now` never runs backwards for a user, a store whose clock is set back
-- keeps every promise at the cost of a longer wait; what counts never depends on a relay's clock.
--
-- What it costs is the calls of redis.call and the strings made; a function that needs what is around it costs as much each time the
-- script is run. So the common way is written out, and what happens seldom is made where it happens.
local K, OPEN, call = KEYS[1], KEYS[1] .. ':open', redis.call

local raw = clock()
local f = call('HMGET', K, 'status', 'ostatus', 'gen', 'hourly', 'total',
               'taken', 'gone', 'rejected', 'rgone', 'held', 'last', 'marks')
if not f[1] then return raw end  -- there is no such user
local hourly, total = tonumber(f[4]), tonumber(f[5])  -- nil: unlimited
local taken, gone = tonumber(f[6] or 0), tonumber(f[7] or 0)
local rejected, rgone = tonumber(f[8] or 0), tonumber(f[9] or 0)
local held, last, marks = tonumber(f[10] or 0), tonumber(f[11] or 0), tonumber(f[12] or 0)
if not (taken and gone and rejected and rgone and held and marks) then
  return redis.error_reply('DAMAGED a counter of ' .. K .. ' is no number')
end
local now = math.max(raw, last or 0)

-- What a script has done before it fails is not undone. So whatever moves something writes what follows from it at once, and whatever
-- can fail on a damaged book comes before the first write of what depends on it: a call that failed can be repeated, and counts once.

-- What one hold adds to `marks`: a number of the member's own, times the score, so that neither changes unseen. All is exact in 53 bits.
local function mark(member, score)
  local own = tonumber(string.sub(redis.sha1hex(member), 1, 8), 16)
  return ((own % 2^21 + 1) * (score % 2^31) + own) % 2^32
end

-- Open a book that no script has written, or only one of an older version: it counts its holds once, and lets :lapsed expire no more.
-- What verify looks for is written together, so that one of it missing later was taken away.
if not f[12] then
  local is_old = call('HEXISTS', K, 'holds') == 1
  -- A book that has the one and not the other had it taken away: what is counted now would hide what was done to its holds.
  if is_old or call('HEXISTS', K, 'sum') == 0 then
    for _, key in ipairs({OPEN, K .. ':lapsed'}) do
      local holds = call('ZRANGE', key, 0, -1, 'WITHSCORES')
      for i = 1, #holds, 2 do marks = marks + mark(holds[i], tonumber(holds[i + 1])) end
    end
    call('PERSIST', K .. ':lapsed')
    if not is_old then
      call('HSETNX', K, 'sum', taken - gone)
      if f[8] then call('HSETNX', K, 'rsum', rejected - rgone) end  -- who was never rejected has neither
      if taken + rejected > 0 then call('HSET', K, 'base', taken + rejected) end
    end
    call('HSET', K, 'marks', marks % 2^32)
    call('HDEL', K, 'holds')
  end
end

-- Move the holds whose lease has ended from open to lapsed.
local ended = held ~= 0 and call('ZRANGEBYSCORE', OPEN, '-inf', now, 'WITHSCORES') or {}
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
  call('HSET', K, 'held', held, 'marks', marks % 2^32)
end

-- The first instant at which an entry of this bucket is outside every window that ends then: all of its bucket is.
local function leaves(bucket) return (tonumber(bucket) + 1) * RESOLUTION + WINDOW end

-- Drop the entries that have left the window. The buckets before `edge` have; where it has not moved since, they are dropped already.
local bucket, edge = math.floor(now / RESOLUTION), math.floor((now - WINDOW) / RESOLUTION)
if not last or edge > math.floor((last - WINDOW) / RESOLUTION) then
  -- Returns the cumulative sum up to the last one dropped.
  local function expire(key, sum, base, field, window)
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
    call('HSET', K, field, base, window, sum - base)
    return base
  end
  gone = expire(K .. ':log', taken, gone, 'gone', 'sum')
  rgone = expire(K .. ':rlog', rejected, rgone, 'rgone', 'rsum')
end

-- When the log's sum up to the last entry that has left will be `sum`, an instant in µs. More than it has: if all in flight were taken
-- now, then. What is taken and not yet written is of this bucket, too.
local function freed(key, sum)
  local entry = call('ZRANGEBYSCORE', key, sum, '+inf', 'LIMIT', 0, 1)
  return leaves(entry[1] or bucket)
end
