-- Verify: everything of one user, in one look and as it stands. It is not begun with the book's text, which moves what is due: nothing
-- is written here, so that what is wrong is shown and not papered over.
--
-- ARGV[1]  the most records to read, the latest ones
-- Returns  {the clock in µs, the hash's fields, log, rlog, open, lapsed (members and scores in turn), records (the latest first)}; {} without
--          such a user
local K = KEYS[1]
if redis.call('EXISTS', K) == 0 then return {} end
local answer = {clock(), redis.call('HMGET', K, 'taken', 'gone', 'sum', 'rejected', 'rgone', 'rsum', 'held', 'last', 'holds', 'base')}
for _, part in ipairs({':log', ':rlog', ':open', ':lapsed'}) do
  answer[#answer + 1] = redis.call('ZRANGE', K .. part, 0, -1, 'WITHSCORES')
end
local records = {}
for i, entry in ipairs(redis.call('XREVRANGE', K .. ':settles', '+', '-', 'COUNT', ARGV[1])) do
  records[i] = entry[2][2]
end
answer[#answer + 1] = records
return answer
