-- Give a user in the making its owner's status (ARGV: the user's generation, the status); answers the status it has of it, or nil.
-- Who found the user there already has written a later one: that stays. So does one of the same name that was made since.
local status, gen = unpack(redis.call('HMGET', KEYS[1], 'ostatus', 'gen'))
if status == 'N' and gen == ARGV[1] then
  redis.call('HSET', KEYS[1], 'ostatus', ARGV[2])
  return ARGV[2]
end
return status
