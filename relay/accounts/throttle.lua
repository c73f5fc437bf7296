-- Count a failed attempt; each beyond the limit bars further ones for a time that doubles, up to the whole window.
--
-- KEYS[1]  the address's key, {t:ADDRESS}; ARGV: window in ms, then for each counter the suffix of its key and its limit
-- A counter is a number that expires a window after its last failure or bar; its bar is a key of its own that lives as long.
local window = tonumber(ARGV[1])
for i = 2, #ARGV, 2 do
  local count = KEYS[1] .. ARGV[i]
  local beyond = redis.call('INCR', count) - tonumber(ARGV[i + 1])
  local bar = 0
  if beyond >= 0 then
    bar = math.floor(math.min(window, window / 16 * 2 ^ math.min(beyond, 4)))
    redis.call('SET', count .. ':bar', '', 'PX', math.max(bar, 1))
  end
  redis.call('PEXPIRE', count, window + bar)
end
