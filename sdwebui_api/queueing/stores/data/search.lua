-- KEYS q; ARGV run, index, group, service group. Answers nil or {pending, consumer id, items ahead}.
local q, i, g = KEYS[1], tonumber(ARGV[2]), ARGV[3]
local score = score_of(q, i)
if not score then return false end
expire(q)
if call('SCARD', q .. ':members:' .. g) == 0 then g = ARGV[4] end
if call('ZSCORE', q .. ':leases:' .. g, i) then
  return { 1, g .. '.' .. holder(q, g, i, score), 0 }
end
local ahead = call('ZRANK', q .. ':order', i)
return { 0, '', ahead - call('ZCOUNT', q .. ':away:' .. g, '-inf', '(' .. num(score)) }
