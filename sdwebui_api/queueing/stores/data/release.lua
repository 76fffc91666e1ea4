-- KEYS q; ARGV run, group, user, connection, counts, then indexes. Answers the version.
local q, g, u = KEYS[1], ARGV[2], ARGV[3]
if call('HGET', consumer_key(q, g, u), 'connection') ~= ARGV[4] then return num(version(q)) end
local any = false
for at = 6, #ARGV do
  local i = tonumber(ARGV[at])
  local score = score_of(q, i)
  if score and holder(q, g, i, score) == u then
    if call('ZSCORE', q .. ':leases:' .. g, i) or call('SISMEMBER', q .. ':lapsed:' .. g, i) == 1 then
      give_back(q, g, i, score, ARGV[5] == '1')
      any = true
    end
  end
end
return num(any and changed(q) or version(q))
