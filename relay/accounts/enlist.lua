-- Put a user (ARGV: score, name) into its owner's index if the owner exists; answers the owner's status, or nil.
local status = redis.call('HGET', KEYS[1], 'status')
if status then
  redis.call('ZADD', KEYS[1] .. ':users', ARGV[1], ARGV[2])
end
return status
