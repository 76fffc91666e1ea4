-- KEYS q; ARGV run, token, then indexes: the second half of a get that deletes. Answers the version and those that this call
-- removed. When an answer was lost on its way, the same token is answered the same.
local q = KEYS[1]
local key = q .. ':claim:' .. ARGV[2]
local before = call('GET', key)
if before then
  local again = {}
  for text in string.gmatch(before, '%d+') do again[#again + 1] = tonumber(text) end
  return { num(version(q)), again }
end
local removed = {}
for at = 3, #ARGV do
  local i = tonumber(ARGV[at])
  local score = score_of(q, i)
  if score then
    remove(q, i, score, 'done')
    removed[#removed + 1] = i
  end
end
if not removed[1] then return { num(version(q)), removed } end
redis.pcall('SET', key, table.concat(removed, ' '), 'EX', 60)
return { num(changed(q)), removed }
