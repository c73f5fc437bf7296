-- The store's clock in microseconds. The only source of time of every script; tests put another one in its place.
local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
