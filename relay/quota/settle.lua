-- Settle: close a hold. `accepted` of its units are taken now, `rejected` count against the cap on rejected mail, the rest is free.
--
-- ARGV[4..7]   id, n as reserved, accepted, rejected
-- Returns      {outcome, commit instant in µs, units in the window, units ever taken, 1 if it exceeds a limit}
--   ok         the hold was open
--   late       its lease had lapsed: taken all the same, and an overdraft if it exceeds a limit
--   done       there is no such hold: it was settled before, or it never was. No effect, so a settle may always be repeated
--   gone       there is no such user
local n, accepted, bounced = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local member = ARGV[4] .. ':' .. ARGV[5]
if not exists then return {'gone', raw, 0, 0, 0} end

local outcome
if redis.call('ZREM', OPEN, member) == 1 then
  outcome = 'ok'
  held = held - n
elseif redis.call('ZREM', LAPSED, member) == 1 then
  outcome = 'late'
else
  save()
  return {'done', now, taken - gone, taken, 0}
end
if accepted > 0 then
  taken = taken + accepted
  redis.call('ZADD', LOG, taken, bucket)
end
if bounced > 0 then
  rejected = rejected + bounced
  redis.call('ZADD', RLOG, rejected, bucket)
end
save()
local over = accepted > 0 and ((hourly and taken - gone > hourly) or (total and taken > total))
return {outcome, now, taken - gone, taken, over and 1 or 0}
