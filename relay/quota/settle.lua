-- Settle: close a hold. `accepted` of its units are taken now, `rejected` count against the cap on rejected mail, the rest is free.
--
-- ARGV[4..8]   id, n as reserved, accepted, rejected, how many records are kept of it (0: none)
-- Returns      {outcome, commit instant in µs, units in the window, units ever taken, 1 if it exceeds a limit}
--   ok         the hold was open
--   late       its lease had lapsed: taken all the same, and an overdraft if it exceeds a limit
--   done       there is no such hold: it was settled before, or it never was. No effect, so a settle may always be repeated
--   gone       there is no such user
local n, accepted, bounced = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local member = ARGV[4] .. ':' .. ARGV[5]
if not exists then return {'gone', raw, 0, 0, 0} end

local outcome, from = 'ok', OPEN
local score = redis.call('ZSCORE', OPEN, member)
if score then
  held = held - n
else
  outcome, from = 'late', LAPSED
  score = redis.call('ZSCORE', LAPSED, member)
end
if not score then
  save()
  return {'done', now, taken - gone, taken, 0}
end
holds = holds - digest(member, score)
if bounced > 0 then
  if accepted > 0 then redis.call('ZCARD', LOG) end  -- fails where the ZADD would
  rejected = rejected + bounced
  redis.call('ZADD', RLOG, rejected, bucket)
end
if accepted > 0 then
  taken = taken + accepted
  redis.call('ZADD', LOG, taken, bucket)
end
save()
redis.call('ZREM', from, member)
-- The record of it: with the sums after it, so that the first one kept says how far the ones before it had come. A hold that was only
-- given back leaves none: it changes no sum, and a refused or aborted message shall cost nothing. What cannot be put on record (a key
-- that is no stream) is charged all the same; verify finds the gap.
-- (Lua writes a sum below 10^14 with all its digits; an instant is longer.)
if accepted > 0 or bounced > 0 then
  if ARGV[8] == '0' then
    redis.call('DEL', SETTLES)  -- what stayed would not fit what comes when they are kept again
    redis.call('HSET', K, 'base', taken + rejected)
  else
    redis.pcall('XADD', SETTLES, 'MAXLEN', '~', ARGV[8], '*', 'r', ARGV[4] .. ' ' .. ARGV[5] .. ' ' .. ARGV[6] .. ' ' .. ARGV[7]
               .. ' ' .. outcome .. ' ' .. string.format('%.0f ', now) .. taken .. ' ' .. rejected)
  end
end
local over = accepted > 0 and ((hourly and taken - gone > hourly) or (total and taken > total))
return {outcome, now, taken - gone, taken, over and 1 or 0}
