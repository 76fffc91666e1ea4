-- KEYS q, sink, rear, callbacks; ARGV run, index, request id, token, failed, room in the sink (-1: any), then for result,
-- dead letter and callback each: how many arguments follow (0: there is none), priority, path, data, tags.
-- Answers 1 and the new version of q, or 0 when somebody was quicker. The token tells an attempt whose answer was lost
-- from somebody else's.
local q = KEYS[1]
local i, id, token, failed, most = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local score = score_of(q, i)
local fields = score and load(q, i, score)
-- The request id is compared too: a Redis that lost its newest writes gives indexes a second time.
if not fields or field(fields, '=requestId') ~= id then
  local record = call('HMGET', q .. ':task:' .. id, 'by', 'i')
  return { record[1] == token and tonumber(record[2]) == i and 1 or 0, num(version(q)) }
end
local additions, at = {}, 7
for number = 1, 3 do
  local count = tonumber(ARGV[at])
  if count > 0 then
    local tags = slice(ARGV, at + 4, at + count)
    additions[#additions + 1] =
      { KEYS[number + 1], field(tags, 'requestId'), ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tags }
  end
  at = at + count + 1
end
local result
for _, new in ipairs(additions) do
  if new[1] == KEYS[2] then
    result = new[5]
    local fresh = not call('HGET', new[1] .. ':ids', new[2])
    if fresh and most >= 0 and call('ZCARD', new[1] .. ':order') >= most then return 'full' end
  end
end
for _, new in ipairs(additions) do append(unpack(new)) end
remove(q, i, score, failed == '1' and 'failed' or 'done', result, token)
return { 1, num(changed(q)) }
