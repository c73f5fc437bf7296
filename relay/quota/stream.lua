-- The records of an older version, a stream with one text each, as they are written now. What cannot be read stays as it is.
local function translate(entries)
  local texts = {}
  for i, entry in ipairs(entries) do
    local text = entry[2][2]
    local id, units, accepted, rejected, outcome, at, taken, all = string.match(text, '^(%S+) (%d+) (%d+) (%d+) (%l+) (%d+) (%d+) (%d+)$')
    if id then
      text = at .. ' ' .. taken .. ' ' .. all .. ' ' .. id .. ':' .. units .. ',' .. accepted .. ',' .. rejected
             .. (outcome == 'late' and ',late' or '')
    end
    texts[i] = text
  end
  return texts
end
