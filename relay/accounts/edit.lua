-- Change a user that exists and belongs to ARGV[1] ('' is whoever's); a deleted user is never brought back.
-- ARGV: owner, channel, name, then field and value in turn. 'gen' is added to, an empty 'seal' is taken away.
-- The change is published with it, so that no crash can part the two. Answers the fields before and after, or nil.
local function read()
  return redis.call('HMGET', KEYS[1], 'owner', 'status', 'ostatus', 'gen', 'hourly', 'total')
end

local before = read()
if not before[1] or (ARGV[1] ~= '' and before[1] ~= ARGV[1]) then
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
return {before, read()}
