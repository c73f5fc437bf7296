-- How an entry of the records begins.
local function head(at, taken, rejected)
  return struct.pack('>I7', at) .. string.format(rejected == 0 and '%d' or '%d,%d', taken, rejected)
end

-- How the ids begin that are not written in full: as the first of all does, by the name of the process that gave them. nil: all are.
local function prefix_of(first)
  return type(first) == 'string' and string.match(first, '^%d[%d,]* (%w%w%w%w%w%w%w%w)%w', 8) or nil
end

local function in_full(entry, prefix)
  return prefix and string.sub(entry, 1, 7) .. string.gsub(string.sub(entry, 8), ' ,', ' ' .. prefix) or entry
end

-- The records of an older version, a stream with one text each, as they are written now; `head` is the function above. What cannot be
-- read stays as it is.
local function translate(entries, head)
  local texts = {}
  for i, entry in ipairs(entries) do
    local text = entry[2][2]
    local id, units, accepted, rejected, outcome, at, taken, all = string.match(text, '^(%S+) (%d+) (%d+) (%d+) (%l+) (%d+) (%d+) (%d+)$')
    if id then
      text = head(tonumber(at), tonumber(taken), tonumber(all)) .. ' ' .. id .. ':' .. units .. ',' .. accepted .. ',' .. rejected
             .. (outcome == 'late' and ',late' or '')
    end
    texts[i] = text
  end
  return texts
end
