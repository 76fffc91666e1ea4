-- KEYS q; ARGV run, start, length, group, what of its pending items is shown ('all', 'none' or an index), tags.
-- Answers {index, 0, priority, fields} of each. Stops early when it has 64 MiB.
local q = KEYS[1]
local start, length, g, shown = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local grouped = shown ~= 'all'
local keys, only = filter_of(q, slice(ARGV, 6))
if grouped then expire(q, g) end
local found, bytes = {}, 0

local function visible(i)
  return has_all(keys, i) and not (grouped and i ~= tonumber(shown) and call('ZSCORE', q .. ':leases:' .. g, i))
end

local function collect(i, score)
  if not visible(i) then return false end
  local fields = load(q, i, score)
  found[#found + 1] = { i, 0, score < LOW and 1 or 0, fields }
  bytes = bytes + #field(fields, 'd')
  return #found >= length or bytes > 67108864
end

-- The next score of one priority in the direction of reading, from `edge` on; nil at its end.
local function step(base, edge, newest)
  local source = keys[1] or q .. ':order'
  local range = newest and { 'ZREVRANGEBYSCORE', source, num(edge), num(base) }
    or { 'ZRANGEBYSCORE', source, num(edge), num(base + LOW - 1) }
  local page = call(range[1], range[2], range[3], range[4], 'WITHSCORES', 'LIMIT', 0, 1)
  return tonumber(page[2])
end

-- By index, over both priorities.
local function merge(newest)
  local towards = newest and -1 or 1
  local first = newest and LOW - 1 or start
  local high, low = step(0, first, newest), step(LOW, LOW + first, newest)
  while high or low do
    local pick_high = high and (not low or (high < low - LOW) == not newest)
    local score = pick_high and high or low
    if collect(index_of(score), score) then return end
    if pick_high then high = step(0, high + towards, newest) else low = step(LOW, low + towards, newest) end
  end
end

if only then
  local score = score_of(q, only)
  if score and (start <= 0 or only >= start) then collect(only, score) end
elseif start < 0 then
  length = 1
  merge(true)
elseif start > 0 then
  merge(false)
else
  walk(q, keys, nil, 0, 2 * LOW, collect)
end
return found
