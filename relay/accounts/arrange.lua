-- Write or take away one thing that an owner has set, if the owner exists, and give all of it a new version.
--
-- KEYS[1]  the owner's hash, {o:ID}, with the version in `out` and the octets of all that is set in `outsize`
-- ARGV     the part (settings, signers or policy: a hash beside it), the field, how the value must begin now ('' is: not there; '*' is:
--          whatever it is), the new value ('' takes it away), the most fields of the part, the most octets in all
-- Answers the version; or 0 (nothing to take away), -1 (no such owner), -2 (it begins otherwise), -3 (too many), -4 (too much).
-- A version is the store's time in µs or more than the one before: it does not come again, even where a backup was put back.
local part, field, begins, value = KEYS[1] .. ':' .. ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('HEXISTS', KEYS[1], 'status') == 0 then
  return -1
end
local old = redis.call('HGET', part, field)
if begins ~= '*' and (old and string.sub(old, 1, #begins) ~= begins or begins == '' and old or begins ~= '' and not old) then
  return -2
end
if value == '' and not old then
  return 0
end
if value ~= '' and not old and redis.call('HLEN', part) >= tonumber(ARGV[5]) then
  return -3
end
local out, size = unpack(redis.call('HMGET', KEYS[1], 'out', 'outsize'))
size = tonumber(size or 0) + #value - (old and #old or 0)
if size > tonumber(ARGV[6]) and value ~= '' then
  return -4
end
if value == '' then
  redis.call('HDEL', part, field)
else
  redis.call('HSET', part, field, value)
end
local time = redis.call('TIME')
local version = string.format('%.0f', math.max(tonumber(out or 0) + 1, time[1] * 1000000 + time[2]))
redis.call('HSET', KEYS[1], 'out', version, 'outsize', size)
return tonumber(version)
