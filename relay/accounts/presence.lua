-- Say how many connections a user has at one worker, and let in as many more as fit the limit with those of all workers.
--
-- KEYS[1]  the user's connections, {u:NAME}:sessions: a hash, for each worker "serial count end" (of its lease, in ms)
-- ARGV     the worker, a serial that grows with all it says, its count, how many more it wants, the limit, the lease in ms
-- Answers how many more are let in, and how many the other workers have; or the serial, negative, if the worker has said something newer
-- already: then nothing is done.
local worker, serial, count, wanted = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local limit, lease = tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local others = 0
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local said, held, ends = string.match(entries[i + 1], '^(%d+) (%d+) (%d+)$')
  if entries[i] == worker then
    if said and tonumber(said) >= serial then
      return {-tonumber(said), 0}
    end
  elseif not said or tonumber(ends) <= now then
    redis.call('HDEL', KEYS[1], entries[i])
  else
    others = others + held
  end
end
local let_in = math.max(0, math.min(wanted, limit - others - count))
if count + let_in > 0 then
  redis.call('HSET', KEYS[1], worker, string.format('%.0f %.0f %.0f', serial, count + let_in, now + lease))
  redis.call('PEXPIRE', KEYS[1], lease)
else
  redis.call('HDEL', KEYS[1], worker)
end
return {let_in, others}
