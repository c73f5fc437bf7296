-- Change a user that exists and belongs to ARGV[1] ('' is whoever's); a deleted user is never brought back.
-- ARGV: owner, channel, name, then field and value in turn. 'gen' is added to, an empty 'seal' is taken away.
-- The change is published with it, so that no crash can part the two. Answers the fields after it, and the holds that are open with
-- the ends of their leases: read here, before any worker can hear of the change and check one of them anew. Nil if there is no such user.
local owner = redis.call('HGET', KEYS[1], 'owner')
if not owner or (ARGV[1] ~= '' and owner ~= ARGV[1]) then
  return false
end
for i = 4, #ARGV, 2 do
  if ARGV[i] == 'gen' then
    redis.call('HINCRBY', KEYS[1], 'gen', ARGV[i + 1])
  elseif ARGV[i] == 'seal' and ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], 'seal')
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
if #ARGV > 3 then
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return {redis.call('HMGET', KEYS[1], 'owner', 'status', 'ostatus', 'gen', 'hourly', 'total'),
        redis.call('ZRANGE', KEYS[1] .. ':open', 0, -1, 'WITHSCORES')}
