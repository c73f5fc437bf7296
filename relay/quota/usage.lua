-- Usage: what the book says now, and when one more unit fits.
--
-- Returns {hourly, total ('' unlimited), units in the window, in flight, ever taken, rejected in the window,
--          instant one unit fits in µs (0 now, -1 never), the clock in µs}, then the open holds and their leases;
--          the clock alone without a user
local sent, instant = taken - gone, 0
if (total and taken + 1 > total) or (hourly and hourly < 1) then
  instant = -1
elseif hourly and sent + held + 1 > hourly then
  instant = freed(K .. ':log', gone + sent + held + 1 - hourly, bucket, RESOLUTION, WINDOW)
elseif total and taken + held + 1 > total then
  instant = tonumber(call('ZRANGE', OPEN, 0, 0, 'WITHSCORES')[2])  -- as reserve would say: in flight
end
last = now
call('HSET', K, 'taken', form(taken, gone, rejected, rgone, held, marks, last, soonest, lapses, prefix))
return {f[4] or '', f[5] or '', sent, held, taken, rejected - rgone, instant, raw, call('ZRANGE', OPEN, 0, -1, 'WITHSCORES')}
