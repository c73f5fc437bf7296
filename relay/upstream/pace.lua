-- Pace: give the next message to a smarthost its instant, one interval after the one before it (GCRA without a burst).
--
-- KEYS[1]  the smarthost's key, a string: the instant from which the next message may go, in µs of the store's clock
-- ARGV     the interval between two messages and the longest wait, in µs
-- Answers with the µs until the instant that is now the caller's own; where that is longer than the longest wait it is nobody's, and the
-- answer is negative.
local interval, longest = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local free = tonumber(redis.call('GET', KEYS[1]) or now)
-- Nobody is given an instant farther ahead than an hour: this one was given before the clock was set back.
if free < now or free > now + 3600000000 + interval then
  free = now
end
local wait = free - now
if wait > longest then
  return -wait
end
redis.call('SET', KEYS[1], string.format('%.0f', free + interval), 'PX', math.ceil((wait + interval) / 1000) + 1)
return wait
