-- KEYS q; ARGV run, group, counts, then indexes. Answers the version, then {index, count, priority, fields} of each.
local q, g = KEYS[1], ARGV[2]
expire(q, g)
local given = {}
for at = 4, #ARGV do
  local i = tonumber(ARGV[at])
  local score = score_of(q, i)
  if score and call('ZSCORE', q .. ':leases:' .. g, i) then
    local count = give_back(q, g, i, score, ARGV[3] == '1')
    given[#given + 1] = { i, count, score < LOW and 1 or 0, load(q, i, score) }
  end
end
return { num(given[1] and changed(q) or version(q)), given }
