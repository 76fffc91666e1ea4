-- KEYS q; ARGV run. Answers the version and in how many ms the first lease ends (-1: nothing is held).
local q = KEYS[1]
local first
for _, g in ipairs(expire(q)) do
  local lease = call('ZRANGE', q .. ':leases:' .. g, 0, 0, 'WITHSCORES')
  if lease[2] then first = math.min(first or math.huge, tonumber(lease[2])) end
end
return { num(version(q)), first and math.max(0, first - NOW) or -1 }
