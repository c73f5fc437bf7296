-- Verify: everything of one user, in one look and as it stands. It is not begun with the book's text, which moves what is due: nothing
-- is written here, so that what is wrong is shown and not papered over.
--
-- ARGV[1]  the most entries of records to read, the latest ones
-- Returns  {the clock in µs, the counters (as texts), log, rlog, open, lapsed (members and scores in turn), records (the oldest first, with
--          their ids in full)}; {} without such a user
local K = KEYS[1]
if redis.call('EXISTS', K) == 0 then return {} end
local counters = redis.call('HMGET', K, 'taken', 'gone', 'rejected', 'rgone', 'held', 'marks', 'last', 'soonest', 'lapses', 'check', 'sum',
                            'rsum', 'base', 'holds')
local numbers
if counters[1] and #counters[1] == SIZE then
  numbers = {read(counters[1])}
  for i = 1, 10 do counters[i] = string.format('%d', numbers[i]) end
end
local answer = {clock(), counters}
for _, part in ipairs({':log', ':rlog', ':open', ':lapsed'}) do
  answer[#answer + 1] = redis.call('ZRANGE', K .. part, 0, -1, 'WITHSCORES')
end
if redis.call('TYPE', K .. ':settles').ok == 'stream' then
  answer[#answer + 1] = translate(redis.call('XRANGE', K .. ':settles', '-', '+'), head)
else
  local entries, prefix = redis.call('LRANGE', K .. ':settles', '-' .. ARGV[1], -1), prefix_of(redis.call('LINDEX', K .. ':settles', 0))
  if numbers and entries[1] and numbers[11] ~= '        ' and numbers[11] ~= prefix then
    counters[10] = counters[10] .. ', and ids that begin with ' .. numbers[11] .. ', not ' .. (prefix or 'as the first record')
  end
  for i, entry in ipairs(entries) do entries[i] = in_full(entry, prefix) end
  answer[#answer + 1] = entries
end
return answer
