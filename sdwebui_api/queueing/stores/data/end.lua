-- KEYS q; ARGV run, force, last score seen. Answers the score to go on from ('' when done) and the version.
local q = KEYS[1]
call('HSET', q .. ':state', 'ended', 1)
ensure_queue(q)
local groups, dropped = expire(q), {}
local function drop(i, score)
  for _, g in ipairs(groups) do
    if call('ZSCORE', q .. ':leases:' .. g, i) then return false end
  end
  dropped[#dropped + 1] = { i, score }
  return #dropped == 500
end
local reached
if ARGV[2] == '1' then reached = walk(q, {}, nil, tonumber(ARGV[3]), 2 * LOW, drop) end
for _, pair in ipairs(dropped) do remove(q, pair[1], pair[2], 'failed') end
return { #dropped == 500 and num(reached) or '', num(changed(q)) }
