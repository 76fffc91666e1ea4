-- KEYS q; ARGV run, group, then indexes. Answers the version.
local q, g = KEYS[1], ARGV[2]
local any = false
for at = 3, #ARGV do
  local i = tonumber(ARGV[at])
  local score = score_of(q, i)
  if score and not is_done(q, g, i) then
    commit(q, g, i, score)
    any = true
  end
end
return num(any and changed(q) or version(q))
