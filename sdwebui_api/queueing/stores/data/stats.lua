-- KEYS q; ARGV run, with consumers. Answers length, held, first index (0: none), last index, age of the oldest (ms), ended,
-- groups, and per consumer {group, pending, has uncommitted, fields of its hash}.
local q = KEYS[1]
local groups, known, leases, consumers = expire(q), {}, {}, {}

-- What the consumer holds, and whether it was given anything that is not committed.
local function holdings(g, u)
  local pending, all = 0, given_to(q, g, u)
  for _, pair in ipairs(all) do
    if call('ZSCORE', q .. ':leases:' .. g, pair[1]) then pending = pending + 1 end
  end
  return pending, #all > 0 and 1 or 0
end

for _, g in ipairs(groups) do
  if call('ZCARD', q .. ':leases:' .. g) > 0 then leases[#leases + 1] = q .. ':leases:' .. g end
  local members = call('SMEMBERS', q .. ':members:' .. g)
  if members[1] then known[#known + 1] = g end
  for _, u in ipairs(ARGV[2] == '1' and members or {}) do
    local pending, uncommitted = holdings(g, u)
    consumers[#consumers + 1] = { g, u, pending, uncommitted, call('HGETALL', consumer_key(q, g, u)) }
  end
end

local held = 0
if #leases == 1 then held = call('ZCARD', leases[1]) end
if #leases > 1 then held = #call('ZUNION', #leases, unpack(leases)) end

local first, created
for _, class in ipairs({ ':high', ':low' }) do
  local entry = call('XRANGE', q .. class, '-', '+', 'COUNT', 1)[1]
  local i = entry and tonumber(string.match(entry[1], '^%d+'))
  if i and (not first or i < first) then first, created = i, tonumber(field(entry[2], 'c')) end
end
local state = call('HMGET', q .. ':state', 'index', 'ended')
return {
  call('ZCARD', q .. ':order'), held, first or 0, tonumber(state[1] or 0),
  created and math.max(0, NOW - created) or 0, state[2] and 1 or 0, known, consumers, num(NOW),
}
