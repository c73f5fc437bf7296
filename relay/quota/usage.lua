-- Usage: what the book says now, and when one more unit fits.
--
-- Returns {1, hourly, total ('' unlimited), units in the window, in flight, ever taken, rejected in the window,
--          instant one unit fits in µs (0 now, -1 never), the clock in µs}, then the open holds and their leases; {0} without a user
if not exists then return {0} end
local sent, instant = taken - gone, 0
if (total and taken + 1 > total) or (hourly and hourly < 1) then
  instant = -1
elseif hourly and sent + held + 1 > hourly then
  instant = freed(LOG, gone, sent + held + 1 - hourly)
elseif total and taken + held + 1 > total then
  instant = tonumber(redis.call('ZRANGE', OPEN, 0, 0, 'WITHSCORES')[2])  -- as reserve would say: in flight
end
save()
return {1, f[4] or '', f[5] or '', sent, held, taken, rejected - rgone, instant, raw,
        redis.call('ZRANGE', OPEN, 0, -1, 'WITHSCORES')}
