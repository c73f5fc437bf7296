-- Write a new hash, field and value in turn, unless its first field is there already: then its value is the answer, else nil.
-- (A hash without that field is not an account: only what a ledger left behind.)
local taken = redis.call('HGET', KEYS[1], ARGV[1])
if taken then
  return taken
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV))
return false
