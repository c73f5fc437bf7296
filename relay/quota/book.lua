-- One user's account book, opened. Every script of the ledger begins with this text.
--
-- KEYS[1]      the user's hash, {u:NAME}. All other keys share its hash tag, so a script is one slot in a Cluster:
--   :log       zset, what was taken: member = number of the resolution bucket, score = units ever taken up to the end of it
--   :rlog      zset, the same for what the smarthost rejected
--   :open      zset, holds: member = id:units, score = end of the lease in µs
--   :lapsed    zset, holds whose lease has ended: not counted, not forgotten; score = when they lapsed. Those of long ago are dropped
--              when another one lapses; what is left of a user that never lapses again stays: some octets a hold. (It does not expire:
--              what leaves by itself would leave `holds` behind.)
--   :settles   stream, the latest settles that charged something, written by settle and read by verify alone
-- The hash's fields that belong to the ledger:
--   taken      units ever taken;   gone   those of them that have left the window: the window's sum is taken - gone
--   rejected   units ever rejected; rgone likewise
--   sum, rsum  taken - gone and rejected - rgone once more: no script reads them, verify holds them against the rest
--   held       sum over :open
--   holds      digest of :open and :lapsed together: the sum of a hash of each hold with its score, modulo 2^32. No script reads the holds
--              to write it, verify alone counts it anew. (The score tells open from lapsed: one is after `last`, the other not.)
--   base       taken + rejected when the last settle without a record was made: by an older version, or with none to be kept
--   last       the latest `now` this book was written at, µs
--
-- Because an entry carries the cumulative sum, the entry whose leaving makes room for n units is found by its score in O(log N):
-- the retry-after is searched, never scanned. Because `now` never runs backwards for a user, a store whose clock is set back
-- keeps every promise at the cost of a longer wait; what counts never depends on a relay's clock.
--
-- ARGV[1..3]   window and resolution in µs, how long lapsed holds are kept in µs
local K = KEYS[1]
local LOG, RLOG, OPEN, LAPSED, SETTLES = K .. ':log', K .. ':rlog', K .. ':open', K .. ':lapsed', K .. ':settles'
local WINDOW, RESOLUTION, KEEP = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local f = redis.call('HMGET', K, 'status', 'ostatus', 'gen', 'hourly', 'total',
                     'taken', 'gone', 'rejected', 'rgone', 'held', 'last', 'holds')
local exists = f[1] ~= false
local hourly, total = tonumber(f[4] or ''), tonumber(f[5] or '')  -- nil: unlimited
local taken, gone = tonumber(f[6] or 0), tonumber(f[7] or 0)
local rejected, rgone = tonumber(f[8] or 0), tonumber(f[9] or 0)
local held, holds = tonumber(f[10] or 0), tonumber(f[12] or 0)
if not (taken and gone and rejected and rgone and held and holds) then
  return redis.error_reply('DAMAGED a counter of ' .. K .. ' is no number')
end
local before = {taken, rejected}
local raw = clock()
local now = math.max(raw, tonumber(f[11] or 0))
local bucket = math.floor(now / RESOLUTION)

-- The first instant at which an entry of this bucket is outside every window that ends then: all of its bucket is.
local function leaves(b) return (tonumber(b) + 1) * RESOLUTION + WINDOW end

-- What a script has done before it fails is not undone. So whatever moves something writes what follows from it at once, and whatever
-- can fail on a damaged book comes before the first write of what depends on it: a call that failed can be repeated, and counts once.

-- What one hold adds to `holds`; its score as a number or as the store tells it.
local function digest(member, score)
  return tonumber(string.sub(redis.sha1hex(string.format('%s:%d', member, score)), 1, 8), 16)
end

-- Open a book that no script has written, or only one of an older version: it counts its holds once, and lets :lapsed expire no more.
-- What verify looks for is written together, so that one of it missing later was taken away.
local function begin()
  -- A book that has the one and not the other had it taken away: what is counted now would hide what was done to its holds.
  if redis.call('HEXISTS', K, 'sum') == 1 then return end
  local open, lapsed = redis.call('ZRANGE', OPEN, 0, -1, 'WITHSCORES'), redis.call('ZRANGE', LAPSED, 0, -1, 'WITHSCORES')
  for i = 1, #open, 2 do holds = holds + digest(open[i], open[i + 1]) end
  for i = 1, #lapsed, 2 do holds = holds + digest(lapsed[i], lapsed[i + 1]) end
  redis.call('PERSIST', LAPSED)
  redis.call('HSETNX', K, 'sum', taken - gone)
  redis.call('HSETNX', K, 'rsum', rejected - rgone)
  if taken + rejected > 0 then redis.call('HSET', K, 'base', taken + rejected) end
  redis.call('HSET', K, 'holds', holds % 2^32)
end

-- Drop the entries that have left the window; returns the cumulative sum up to the last one dropped.
local function expire(key, sum, base, field, window)
  if sum == base then return base end
  local head = redis.call('ZRANGE', key, 0, 0)
  if not head[1] or leaves(head[1]) > now then return base end
  local low, high = 0, redis.call('ZCARD', key) - 1  -- low has left; find the last that has
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if leaves(redis.call('ZRANGE', key, middle, middle)[1]) <= now then low = middle else high = middle - 1 end
  end
  base = tonumber(redis.call('ZRANGE', key, low, low, 'WITHSCORES')[2])
  redis.call('ZREMRANGEBYRANK', key, 0, low)
  redis.call('HSET', K, field, base, window, sum - base)
  return base
end

-- Move the holds whose lease has ended from open to lapsed.
local function lapse()
  if held == 0 then return end
  local ended = redis.call('ZRANGEBYSCORE', OPEN, '-inf', now, 'WITHSCORES')
  if #ended == 0 then return end
  local old = redis.call('ZRANGEBYSCORE', LAPSED, '-inf', now - KEEP, 'WITHSCORES')
  local left, sum = held, holds
  for i = 1, #old, 2 do sum = sum - digest(old[i], old[i + 1]) end
  for i = 1, #ended, 2 do
    left = left - tonumber(string.match(ended[i], ':(%d+)$'))
    sum = sum - digest(ended[i], ended[i + 1]) + digest(ended[i], now)
  end
  held, holds = left, sum
  redis.call('ZREMRANGEBYSCORE', LAPSED, '-inf', now - KEEP)
  for i = 1, #ended, 2 do redis.call('ZADD', LAPSED, now, ended[i]) end
  redis.call('ZREMRANGEBYSCORE', OPEN, '-inf', now)
  redis.call('HSET', K, 'held', held, 'holds', holds % 2^32)
end

-- When `need` units will have left the log: an instant in µs. More than it holds: if all in flight were taken now, then.
local function freed(key, base, need)
  local entry = redis.call('ZRANGEBYSCORE', key, base + need, '+inf', 'LIMIT', 0, 1)
  return leaves(entry[1] or bucket)
end

-- Numbers are handed to redis.call as they are: it writes a whole number with all its digits (Lua's own conversion would not).
-- Most calls change only what is held, most others only what is taken.
local function save()
  if rejected ~= before[2] then redis.call('HSET', K, 'rejected', rejected, 'rsum', rejected - rgone) end
  if taken ~= before[1] then
    redis.call('HSET', K, 'taken', taken, 'sum', taken - gone, 'held', held, 'holds', holds % 2^32, 'last', now)
  else
    redis.call('HSET', K, 'held', held, 'holds', holds % 2^32, 'last', now)
  end
end

if exists then
  if not f[12] then begin() end
  lapse()
  gone = expire(LOG, taken, gone, 'gone', 'sum')
  rgone = expire(RLOG, rejected, rgone, 'rgone', 'rsum')
end
