-- KEYS q; ARGV run, retention (ms), lease (ms), remember (ms), is a queue of results. Does a part; answers 1 when there
-- is more to do.
local q = KEYS[1]
local old, lease, remembered = NOW - tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local more, removed = 0, false
local groups = expire(q)

local function forget_results(class, base)
  for _, entry in ipairs(call('XRANGE', q .. class, '-', '+', 'COUNT', 100)) do
    if tonumber(field(entry[2], 'c')) > old then return end
    local i = tonumber(string.match(entry[1], '^%d+'))
    remove(q, i, base + i, nil)
    removed, more = true, 1
  end
end

local function forget_requests()
  local ids = call('ZRANGEBYSCORE', q .. ':gone', '-inf', num(old), 'LIMIT', 0, 500)
  for _, id in ipairs(ids) do
    call('HDEL', q .. ':ids', id)
    call('DEL', q .. ':task:' .. id)
    call('ZREM', q .. ':gone', id)
  end
  if #ids == 500 then more = 1 end
end

local function holds(g, u)
  for _, pair in ipairs(given_to(q, g, u)) do
    if call('ZSCORE', q .. ':leases:' .. g, pair[1]) then return true end
  end
  return false
end

-- A consumer is gone when it left, or since the lease of its last sign of life ended.
local function sweep_consumer(g, u)
  local key = consumer_key(q, g, u)
  local me = call('HMGET', key, 'seen', 'left', 'gone')
  local gone = tonumber(me[2] or tonumber(me[1] or 0) + lease)
  if gone > NOW then return end
  if NOW - gone > remembered and not holds(g, u) then
    call('DEL', key)
    call('SREM', q .. ':members:' .. g, u)
    call('HSET', q .. ':state', 'settle', 1)
  elseif not me[2] and not me[3] then
    call('HSET', key, 'gone', num(gone))
  end
end

local function sweep_group(g)
  for _, u in ipairs(call('SMEMBERS', q .. ':members:' .. g)) do sweep_consumer(g, u) end
  if call('SCARD', q .. ':members:' .. g) > 0 then return end
  if NOW - tonumber(call('HGET', q .. ':group:' .. g, 'born') or 0) <= remembered then return end
  call('XGROUP', 'DESTROY', q .. ':high', g)
  call('XGROUP', 'DESTROY', q .. ':low', g)
  for _, part in ipairs({ ':group:', ':away:', ':leases:', ':lapsed:', ':members:' }) do call('DEL', q .. part .. g) end
  call('SREM', q .. ':groups', g)
end

-- What other groups committed was kept for groups that are forgotten now.
local function settle()
  if not call('HGET', q .. ':state', 'settle') then return end
  local count = 0
  walk(q, { q .. ':committed' }, nil, 0, 2 * LOW, function(i, score)
    if not is_wanted(q, nil, i) then
      remove(q, i, score, 'done')
      removed, count = true, count + 1
    end
    return count == 500
  end)
  if count == 500 then more = 1 else call('HDEL', q .. ':state', 'settle') end
end

if ARGV[5] == '1' then
  forget_results(':high', 0)
  forget_results(':low', LOW)
end
forget_requests()
for _, g in ipairs(groups) do sweep_group(g) end
settle()
if removed then changed(q) end
return more
