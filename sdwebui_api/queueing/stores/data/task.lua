-- KEYS q; ARGV run, request id. Answers nil, {'done' or 'failed', hash} or {'queued' or 'running', index, fields}.
local q, id = KEYS[1], ARGV[2]
local i = tonumber(call('HGET', q .. ':ids', id) or nil)
if not i then return false end
local score = score_of(q, i)
if not score then
  local record = call('HGETALL', q .. ':task:' .. id)
  -- Of results that were read only the request id and the time they were written are remembered.
  local time = call('ZSCORE', q .. ':gone', id)
  if not record[1] then record = { 'i', num(i), 's', 'done', 'c', time, 'f', time, '=requestId', id } end
  return { field(record, 's'), record }
end
local state = 'queued'
for _, g in ipairs(expire(q)) do
  if call('ZSCORE', q .. ':leases:' .. g, i) then state = 'running' end
end
return { state, i, without_data(load(q, i, score)) }
