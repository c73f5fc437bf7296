-- Remove a user that belongs to ARGV[1] ('' is whoever's) with its book; answers its owner, or nil.
local owner = redis.call('HGET', KEYS[1], 'owner')
if not owner or (ARGV[1] ~= '' and owner ~= ARGV[1]) then
  return false
end
for _, part in ipairs({'', ':log', ':rlog', ':open', ':lapsed', ':settles'}) do
  redis.call('DEL', KEYS[1] .. part)
end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return owner
