-- KEYS q; ARGV run, then indexes. Answers the version, then {index, 0, priority, fields without data} of each.
local q = KEYS[1]
local removed = {}
for at = 2, #ARGV do
  local i = tonumber(ARGV[at])
  local score = score_of(q, i)
  if score then
    removed[#removed + 1] = { i, 0, score < LOW and 1 or 0, without_data(remove(q, i, score, 'failed')) }
  end
end
return { num(removed[1] and changed(q) or version(q)), removed }
