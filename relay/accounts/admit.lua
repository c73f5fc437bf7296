-- Keep a session or a static token of an owner (KEYS[1]), if the owner exists.
--
-- ARGV  the part (sessions or tokens: a hash beside the owner's), the field, the value, now in ms, the most fields, what to do where there
--       are as many: 'replace' the one that ends first, or 'refuse'
-- A value begins with the ms since 1970 at which it ends, and a space; 0 is never. Where there are as many as may be, those that have
-- ended go first. Where all end, nothing is kept for longer than a day (by which clocks may differ) after the last has.
-- Answers 1; or -1 (no such owner), -3 (refused).
local part, now, most = KEYS[1] .. ':' .. ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('HEXISTS', KEYS[1], 'status') == 0 then
  return -1
end
if redis.call('HLEN', part) >= most then
  local first, ends
  local all = redis.call('HGETALL', part)
  for i = 1, #all, 2 do
    local own = tonumber(string.match(all[i + 1], '^%d+') or 1)
    own = own == 0 and math.huge or own
    if own <= now then
      redis.call('HDEL', part, all[i])
    elseif not first or own < ends then
      first, ends = all[i], own
    end
  end
  if redis.call('HLEN', part) >= most then
    if ARGV[6] == 'refuse' then
      return -3
    end
    redis.call('HDEL', part, first)
  end
end
redis.call('HSET', part, ARGV[2], ARGV[3])
if ARGV[6] == 'replace' then
  local ends = string.format('%.0f', tonumber(string.match(ARGV[3], '^%d+')) + 86400000)
  if redis.call('PTTL', part) < 0 then
    redis.call('PEXPIREAT', part, ends)
  else
    redis.call('PEXPIREAT', part, ends, 'GT')
  end
end
return 1
