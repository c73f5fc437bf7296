-- Post: operations of one user, carried out one after the other as if each were a call of its own at this instant; the book is read once
-- before and written once after them.
--
-- ARGV     a member, which is id:units, for each operation; then for each of them, in the same order, what is asked:
--   generation          reserve: may this user, by these credentials, send that many units more? All or nothing
--   nothing             settle: close a hold. All of its units are taken now
--   accepted,rejected   the same: `accepted` of them are taken, `rejected` count against the cap on rejected mail, the rest is free
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
local count, generation = #ARGV / 2, f[3] or '0'

-- The holds that are spoken of: those that are open, and those that have lapsed, with their scores as they are and as they become.
-- Where nothing is held a reserve speaks of none; a settle does that cannot know it.
local open_before, lapsed_before, open, lapsed, is_any_lapsed = {}, {}, {}, {}, lapses ~= 0
if held ~= 0 or count > 1 or ARGV[2] ~= generation then
  open_before = call('ZMSCORE', OPEN, unpack(ARGV, 1, count))
  for i = 1, count do
    local score = tonumber(open_before[i])
    if score then
      open[ARGV[i]] = score
    elseif ARGV[count + i] ~= generation then
      is_any_lapsed = true
    end
  end
end
lapses = is_any_lapsed and call('EXISTS', K .. ':lapsed') or 0
if lapses ~= 0 then
  lapsed_before = call('ZMSCORE', K .. ':lapsed', unpack(ARGV, 1, count))
  for i = 1, count do lapsed[ARGV[i]] = tonumber(lapsed_before[i]) end
end

local cap = hourly and math.max(math.floor(hourly * CAP_FACTOR), CAP_LEAST) or CAP_UNLIMITED
local taken_before, rejected_before = taken, rejected
local answers, records = {now, raw, gone}, nil
local lease = now + LEASE
local others  -- the earliest end of a hold that is not spoken of
for i = 1, count do
  local member, asked = ARGV[i], ARGV[count + i]
  local n = string.sub(member, -2) == ':1' and 1 or tonumber(string.match(member, ':(%d+)$'))
  local ends, since = open[member], lapsed[member]
  if ends then held, marks = held - n, marks - mark(member, ends) end
  if since then marks = marks - mark(member, since) end
  open[member], lapsed[member] = nil, nil
  if asked ~= '' and (asked == generation or not string.find(asked, ',', 1, true)) then
    local sent, bounced = taken - gone, rejected - rgone
    local reason, used, limit, instant = nil, 0, 0, 0
    if f[1] ~= 'E' or f[2] ~= 'E' then
      reason = 'disabled'
    elseif asked ~= generation then
      reason = 'stale'
    elseif total and taken + n > total then
      reason, used, limit = 'total', taken, total
    elseif hourly and n > hourly then
      reason, used, limit = 'never', n, hourly
    elseif n > cap then
      reason, used, limit = 'never', n, cap
    elseif (hourly and sent + n > hourly) or bounced + n > cap then
      -- Both may be full: it fits when both have room.
      if hourly and sent + held + n > hourly then
        instant = freed(K .. ':log', gone + sent + held + n - hourly, bucket, RESOLUTION, WINDOW)
      end
      if bounced + n > cap then
        instant = math.max(instant, freed(K .. ':rlog', rgone + bounced + held + n - cap, bucket, RESOLUTION, WINDOW))
      end
      if hourly and sent + n > hourly then
        reason, used, limit = 'hourly', sent, hourly
      else
        reason, used, limit = 'rejected', bounced, cap
      end
    elseif (hourly and sent + held + n > hourly) or (total and taken + held + n > total) or bounced + held + n > cap then
      if not others then
        local spoken_of, first = {}, call('ZRANGE', OPEN, 0, count, 'WITHSCORES')  -- at least one is not spoken of, if any is
        for j = 1, count do spoken_of[ARGV[j]] = true end
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
      if held == 0 or ends < soonest then soonest = ends end
      open[member], held, marks = ends, held + n, marks + mark(member, ends)
      answers[i + 3] = 1
    end
  elseif ends or since then
    local accepted, bounced = n, 0
    if asked ~= '' then
      accepted, bounced = string.match(asked, '^(%d+),(%d+)$')
      accepted, bounced = tonumber(accepted), tonumber(bounced)
    end
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
      if late then
        record = member .. ',' .. accepted .. ',' .. bounced .. ',late'
      elseif asked ~= '' then
        record = member .. ',' .. asked
      elseif n == 1 then
        record = string.sub(member, 1, -3)
      end
      records = records and records .. ' ' .. record or record
    end
  else
    answers[i + 3] = {'done', taken, 0}
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
for i = 1, count do
  local member, before = ARGV[i], open_before[i]
  local ends = open[member]
  if ends then
    if ends ~= tonumber(before) then
      added = added or {}
      added[#added + 1] = ends
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
last = now
call('HSET', K, 'taken', form(taken, gone, rejected, rgone, held, marks, last, soonest, lapses, prefix))
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
  local entry = head(now, taken, rejected)
  local length = redis.pcall('RPUSH', SETTLES, entry .. string.gsub(' ' .. records, ' ' .. prefix, ' ,'))
  if type(length) == 'table' then
    if call('TYPE', SETTLES).ok ~= 'stream' then return answers end
    local old = translate(call('XRANGE', SETTLES, '-', '+'), head)
    call('DEL', SETTLES)
    for _, each in ipairs(old) do call('RPUSH', SETTLES, each) end
    length = call('RPUSH', SETTLES, entry .. ' ' .. records)
  end
  if length == 1 then
    call('LSET', SETTLES, 0, entry .. ' ' .. records)
    prefix = prefix_of(entry .. ' ' .. records)
    call('HSET', K, 'taken', form(taken, gone, rejected, rgone, held, marks, last, soonest, lapses, prefix))
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
      local before = prefix_of(entries[1])
      local new_first = in_full(entries[first + 1], before)
      prefix = prefix_of(new_first)
      for i = first + 1, prefix == before and first + 1 or length do call('LSET', SETTLES, i - first - 1, in_full(entries[i], before)) end
      call('HSET', K, 'taken', form(taken, gone, rejected, rgone, held, marks, last, soonest, lapses, prefix))
    end
  end
end
return answers
