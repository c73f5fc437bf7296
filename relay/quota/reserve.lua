-- Reserve: may this user send n more units? All or nothing; what is refused costs nothing.
--
-- ARGV[4..10]  id, n, credential generation, lease in µs, and the cap on rejected units: factor of the hourly limit, its minimum,
--              its value where the hourly limit is null
-- Returns      {'ok', now} or {reason, used, limit, instant it fits in µs (0: never), the clock in µs}
--
-- An id that is open already is checked again without its own share and its lease renewed: so a repeated call answers ok again,
-- and a changed limit or status reaches a message that is still being uploaded. An id that lapsed is checked like a new one.
-- A renewed lease ends later than the old one, be it by 1 µs where the clock stands still: who waits for a change knows by it which
-- holds were checked anew.
local id, n, lease = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[7])
local member = id .. ':' .. ARGV[5]
if not exists then return {'unknown', 0, 0, 0, raw} end

local ends = now + lease
local old = held > 0 and redis.call('ZSCORE', OPEN, member)
local lapsed = redis.call('ZSCORE', LAPSED, member)
if old then
  held, holds = held - n, holds - digest(member, old)
  ends = math.max(ends, tonumber(old) + 1)
end
if lapsed then holds = holds - digest(member, lapsed) end

-- Give back what it held before, if anything: as the last thing, or the next to last.
local function drop()
  if old then redis.call('ZREM', OPEN, member) end
  if lapsed then redis.call('ZREM', LAPSED, member) end
end

local function refuse(reason, used, limit, instant)
  drop()
  save()
  return {reason, used, limit, instant, raw}
end

if f[1] ~= 'E' or f[2] ~= 'E' then return refuse('disabled', 0, 0, 0) end
if (f[3] or '0') ~= ARGV[6] then return refuse('stale', 0, 0, 0) end

local cap = hourly and math.max(math.floor(hourly * tonumber(ARGV[8])), tonumber(ARGV[9])) or tonumber(ARGV[10])
local sent, bounced = taken - gone, rejected - rgone
if total and taken + n > total then return refuse('total', taken, total, 0) end
if hourly and n > hourly then return refuse('never', n, hourly, 0) end
if n > cap then return refuse('never', n, cap, 0) end
-- Both may be full: it fits when both have room.
local function fits()
  local instant = 0
  if hourly and sent + held + n > hourly then instant = freed(LOG, gone, sent + held + n - hourly) end
  if bounced + n > cap then instant = math.max(instant, freed(RLOG, rgone, bounced + held + n - cap)) end
  return instant
end
if hourly and sent + n > hourly then return refuse('hourly', sent, hourly, fits()) end
if bounced + n > cap then return refuse('rejected', bounced, cap, fits()) end
if (hourly and sent + held + n > hourly) or (total and taken + held + n > total) or bounced + held + n > cap then
  drop()
  local first = redis.call('ZRANGE', OPEN, 0, 0, 'WITHSCORES')
  return refuse('in_flight', sent + held, hourly or total or cap, tonumber(first[2]))
end

held, holds = held + n, holds + digest(member, ends)
if lapsed then redis.call('ZREM', LAPSED, member) end
redis.call('ZADD', OPEN, ends, member)
save()
return {'ok', now}
