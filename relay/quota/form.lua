-- How a book's counters are written: all of them as one field of the user's hash, because each field that a script reads or writes by its
-- name costs as much as all of these together. Octets, the most significant first:
--   taken      units ever taken;   gone   those of them that have left the window: the window's sum is taken - gone
--   rejected   units ever rejected; rgone likewise
--   held       sum over :open
--   marks      sum over :open and :lapsed together of each hold's mark, modulo 2^32. No script reads the holds to write it, verify alone
--              counts it anew. (The score tells open from lapsed: one is after `last`, the other not.)
--   last       the latest `now` this book was written at, µs
--   soonest    no open hold's lease ends before this instant, µs
--   lapses     0 if there is nothing in :lapsed
--   check      a sum over the counters, each times a number of its own: no script reads it, verify holds it against the rest
--   prefix     how ids in :settles begin that are written without it; spaces where all are written in full
--
-- The field goes by the name of the first because an earlier version, which had one field for each, finds no number there and fails,
-- instead of counting from nothing. To read it (the server must be one of 64 bits; a counter has up to 2^47):
--   EVAL "return {struct.unpack('>i6i6i6i6i6I4I7I7BI4c8', redis.call('HGET', KEYS[1], 'taken'))}" 1 {u:NAME}
local SIZE = 61  -- not more than 64 (hash-max-listpack-value): else each user's hash would take several times the memory
local PRIME = 2^32 - 5  -- the check is taken modulo a prime, so that every octet of an instant counts

local function form(taken, gone, rejected, rgone, held, marks, last, soonest, lapses, prefix)
  marks = marks % 2^32
  local check = taken + 3 * gone + 5 * rejected + 7 * rgone + 11 * held + 13 * marks + last % PRIME + 2 * (soonest % PRIME) + lapses
  return struct.pack('>i6i6i6i6i6I4I7I7BI4c8', taken, gone, rejected, rgone, held, marks, last, soonest, lapses, check % PRIME,
                     prefix or '        ')
end

-- The same, in the same form and order: the check before the prefix.
local function read(counters) return struct.unpack('>i6i6i6i6i6I4I7I7BI4c8', counters) end

-- What one hold adds to `marks`: a number of the member's own, times the score, so that neither changes unseen. All is exact in 53 bits.
local function mark(member, score)
  local own = tonumber(string.sub(redis.sha1hex(member), 1, 8), 16)
  return ((own % 2^21 + 1) * (score % 2^31) + own) % 2^32
end
