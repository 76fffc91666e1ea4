-- KEYS q; ARGV run, below. Removes at most 250 of each priority; answers the version and how many.
local q, below = KEYS[1], tonumber(ARGV[2])
local count = 0
for base = 0, LOW, LOW do
  local bound = '(' .. num(base + math.max(0, math.min(below, LOW - 1)))
  for _, i in ipairs(call('ZRANGEBYSCORE', q .. ':order', num(base), bound, 'LIMIT', 0, 250)) do
    remove(q, i, base + tonumber(i), 'failed')
    count = count + 1
  end
end
return { num(count > 0 and changed(q) or version(q)), count }
