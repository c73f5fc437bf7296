-- Post: operations of one user, carried out one after the other as if each were a call of its own at this instant; the book is read once
-- before and written once after them.
--
-- ARGV     one operation after the other; member is id:units
--   reserve, member, units, credential generation    may this user send that many units more? All or nothing
--   settle, member, units, accepted, rejected        close a hold: `accepted` of its units are taken now, `rejected` count against the
--                                                    cap on rejected mail, the rest is free
-- Returns  {now, the clock (both in µs), units that have left the window, an answer to each}; the clock alone where there is no such user
--   of a reserve: 1 (held), or {reason, used, limit, instant it fits in µs (0: never)}: what is refused costs nothing
--   of a settle: units ever taken, if the hold was open; else {outcome, units ever taken, 1 if it is an overdraft}
--     late   its lease had lapsed: taken all the same, and an overdraft if it exceeds a limit
--     done   there is no such hold: it was settled before, or it never was. No effect, so a settle may always be repeated
--
-- A reserve of an id that is open already is checked again without its own share and its lease renewed: so a repeated call answers ok
-- again, and a changed limit or status reaches a message that is still being uploaded. An id that lapsed is checked like a new one.
-- A renewed lease ends later than the old one, be it by 1 µs where the clock stands still: who waits for a change knows by it which
-- holds were checked anew.
local members, count, has_reserve, has_settle = {}, 0, false, false
local at = 1
while ARGV[at] do
  count = count + 1
  members[count] = ARGV[at + 1]
  if ARGV[at] == 'reserve' then has_reserve, at = true, at + 4 else has_settle, at = true, at + 5 end
end

-- The holds that are spoken of: those that are open, and those that have lapsed, with their scores as they are and as they become.
local open_before, lapsed_before, open, lapsed = {}, {}, {}, {}
local is_any_lapsed = has_reserve
if held ~= 0 or has_settle then
  open_before = call('ZMSCORE', OPEN, unpack(members))
  for i = 1, count do
    local score = tonumber(open_before[i])
    if score then open[members[i]] = score else is_any_lapsed = true end
  end
end
if is_any_lapsed and call('EXISTS', K .. ':lapsed') == 1 then
  lapsed_before = call('ZMSCORE', K .. ':lapsed', unpack(members))
  for i = 1, count do lapsed[members[i]] = tonumber(lapsed_before[i]) end
end

local cap = hourly and math.max(math.floor(hourly * CAP_FACTOR), CAP_LEAST) or CAP_UNLIMITED
local taken_before, rejected_before = taken, rejected
local answers, records = {now, raw, gone}, nil
local lease = now + LEASE
local others  -- the earliest end of a hold that is not spoken of
at = 1
for i = 1, count do
  local member, n = members[i], tonumber(ARGV[at + 2])
  local ends, since = open[member], lapsed[member]
  if ends then held, marks = held - n, marks - mark(member, ends) end
  if since then marks = marks - mark(member, since) end
  open[member], lapsed[member] = nil, nil
  if ARGV[at] == 'reserve' then
    local sent, bounced = taken - gone, rejected - rgone
    local reason, used, limit, instant = nil, 0, 0, 0
    if f[1] ~= 'E' or f[2] ~= 'E' then
      reason = 'disabled'
    elseif (f[3] or '0') ~= ARGV[at + 3] then
      reason = 'stale'
    elseif total and taken + n > total then
      reason, used, limit = 'total', taken, total
    elseif hourly and n > hourly then
      reason, used, limit = 'never', n, hourly
    elseif n > cap then
      reason, used, limit = 'never', n, cap
    elseif (hourly and sent + n > hourly) or bounced + n > cap then
      -- Both may be full: it fits when both have room.
      if hourly and sent + held + n > hourly then instant = freed(K .. ':log', gone + sent + held + n - hourly) end
      if bounced + n > cap then instant = math.max(instant, freed(K .. ':rlog', rgone + bounced + held + n - cap)) end
      if hourly and sent + n > hourly then
        reason, used, limit = 'hourly', sent, hourly
      else
        reason, used, limit = 'rejected', bounced, cap
      end
    elseif (hourly and sent + held + n > hourly) or (total and taken + held + n > total) or bounced + held + n > cap then
      if not others then
        local spoken_of, first = {}, call('ZRANGE', OPEN, 0, count, 'WITHSCORES')  -- at least one is not spoken of, if any is
        for _, each in ipairs(members) do spoken_of[each] = true end
        others = math.huge
        for j = #first - 1, 1, -2 do
          if not spoken_of[first[j]] then others = tonumber(first[j + 1]) end
        end
      end
      reason, used, limit, instant = 'in_flight', sent + held, hourly or total or cap, others
      for _, each in pairs(open) do instant = math.min(instant, each) end
      if instant == math.huge then return redis.error_reply('DAMAGED ' .. K .. ' holds more than is open') end
    end
    if reason then
      answers[i + 3] = {reason, used, limit, instant}
    else
      ends = ends and math.max(lease, ends + 1) or lease
      open[member], held, marks = ends, held + n, marks + mark(member, ends)
      answers[i + 3] = 1
    end
    at = at + 4
  elseif ends or since then
    local accepted, bounced = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
    taken, rejected = taken + accepted, rejected + bounced
    local late = not ends
    if late then  -- one that was open in time was let in under the limits of then
      local over = accepted > 0 and ((hourly and taken - gone > hourly) or (total and taken > total))
      answers[i + 3] = {'late', taken, over and 1 or 0}
    else
      answers[i + 3] = taken
    end
    if accepted + bounced > 0 then
      local record = member
      if late or accepted < n or bounced > 0 then
        record = member .. ',' .. ARGV[at + 3] .. ',' .. ARGV[at + 4] .. (late and ',late' or '')
      elseif n == 1 then
        record = string.match(member, '^([^:]+):1$') or member
      end
      records = records and records .. ' ' .. record or record
    end
    at = at + 5
  else
    answers[i + 3] = {'done', taken, 0}
    at = at + 5
  end
end

-- Numbers are handed to redis.call as they are: it writes a whole number with all its digits (Lua's own conversion would not). What
-- was read above is of the right kind; the first to be written of the rest may fail, as nothing is written before it.
if rejected ~= rejected_before then
  if taken ~= taken_before then call('ZCARD', K .. ':log') end  -- fails where the ZADD would
  call('ZADD', K .. ':rlog', rejected, bucket)
end
if taken ~= taken_before then call('ZADD', K .. ':log', taken, bucket) end
local added, removed, forgotten
local lease_text = string.format('%.0f', lease)
for i = 1, count do
  local member, before = members[i], open_before[i]
  local ends = open[member]
  if ends then
    if ends ~= tonumber(before) then
      added = added or {}
      added[#added + 1] = ends == lease and lease_text or ends
      added[#added + 1] = member
    end
  elseif before then
    removed = removed or {}
    removed[#removed + 1] = member
  end
  if lapsed_before[i] and not lapsed[member] then
    forgotten = forgotten or {}
    forgotten[#forgotten + 1] = member
  end
end
if added then call('ZADD', OPEN, unpack(added)) end
if rejected ~= rejected_before then call('HSET', K, 'rejected', rejected, 'rsum', rejected - rgone) end
if taken ~= taken_before then
  call('HSET', K, 'taken', taken, 'sum', taken - gone, 'held', held, 'marks', marks % 2^32, 'last', now)
else
  call('HSET', K, 'held', held, 'marks', marks % 2^32, 'last', now)
end
if removed then call('ZREM', OPEN, unpack(removed)) end
if forgotten then call('ZREM', K .. ':lapsed', unpack(forgotten)) end

-- The record of what was charged: with the sums after it, so that the first one kept says how far the ones before it had come. A hold
-- that was only given back leaves none: it changes no sum, and a refused or aborted message shall cost nothing. What cannot be put on
-- record (a key that is no list) is charged all the same; verify finds the gap. The settles of one call are one entry: what they have
-- in common is most of it. So the list is cut by what its entries hold, and not each time. An entry is the instant in seven octets,
-- then `taken[,rejected]` (rejected only if it is not 0) and the settles: id for one unit that was taken, else id:units, and what of
-- them was taken and rejected unless all was taken, and `late`. An id that begins as the very first one does is without that.
if records then
  local SETTLES = K .. ':settles'
  if RECORDS == 0 then
    call('DEL', SETTLES)  -- what stayed would not fit what comes when they are kept again
    call('HSET', K, 'base', taken + rejected)
    return answers
  end
  local prefix = prefix_of(redis.pcall('LINDEX', SETTLES, 0))
  local entry = head(now, taken, rejected) .. shortened(' ' .. records, prefix)
  local length = redis.pcall('RPUSH', SETTLES, entry)
  if type(length) == 'table' then
    if call('TYPE', SETTLES).ok ~= 'stream' then return answers end
    local old = translate(call('XRANGE', SETTLES, '-', '+'))
    call('DEL', SETTLES)
    for _, each in ipairs(old) do call('RPUSH', SETTLES, each) end
    length = call('RPUSH', SETTLES, entry)
  end
  local step = math.max(4, math.floor(RECORDS / 2))
  if length % step == 0 then
    local entries, kept, first = call('LRANGE', SETTLES, 0, -1), 0, length
    while first > 0 and kept < RECORDS do
      local _, spaces = string.gsub(string.sub(entries[first], 8), ' ', '')
      kept, first = kept + spaces, first - 1
    end
    if first > 0 then
      call('LTRIM', SETTLES, first, -1)
      -- What is the first now is written in full, and all are if they go by another beginning than it has.
      local new_first = in_full(entries[first + 1], prefix)
      local last_to_write = prefix_of(new_first) == prefix and first + 1 or length
      for i = first + 1, last_to_write do call('LSET', SETTLES, i - first - 1, in_full(entries[i], prefix)) end
    end
  end
end
return answers
