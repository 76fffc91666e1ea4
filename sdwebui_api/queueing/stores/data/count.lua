-- KEYS q; ARGV run, priority ('' any, '0', '1'), then tags.
local q, priority = KEYS[1], ARGV[2]
local keys, only = filter_of(q, slice(ARGV, 3))
local from, to = 0, 2 * LOW
if priority == '1' then to = LOW - 1 elseif priority == '0' then from = LOW end
if not only and not keys[2] then return call('ZCOUNT', keys[1] or q .. ':order', num(from), num(to)) end
local count = 0
walk(q, keys, only, from - 1, to, function()
  count = count + 1
  return false
end)
return count
