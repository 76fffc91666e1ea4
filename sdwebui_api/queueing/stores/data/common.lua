-- What every script shares. A script is this file followed by its own; it runs alone, so it is a transaction: nobody
-- sees half of it, and Redis writes its effects to the AOF as one MULTI/EXEC. But an error in the middle undoes
-- nothing: scripts decide first and write afterwards, and the first write is one that Redis refuses when it is out of
-- memory, so that a refusal changes nothing.
--
-- A queue `q` is a set of keys with one prefix (docs/redis.md lists them):
--   q:state            hash    index (of the newest item ever), turns (changes that are no puts), ended,
--                             run (of the server: database/run id), settle (a consumer was forgotten)
--   q:high, q:low      streams the items of either priority; entry id = <index>-0
--   q:order            zset    every index, in order of delivery: score = index, plus LOW for low priority
--   q:ids              hash    request id -> index, as long as it is remembered
--   q:gone             zset    request ids whose items have left; score = when (ms)
--   q:task:<id>        hash    what became of a request that has left
--   q:tag:<n>:<k>=<v>  zset    indexes with that tag, scores as in q:order
--   q:groups           set     groups of consumers
--   q:committed        zset    items that some group is done with and another not yet; scores as in q:order
-- and per group g, beside the streams' own consumer group g, whose pending entries say who was given what how often:
--   q:group:<g>        hash    high, low (everything up to that score is away), top, lease, born
--   q:away:<g>         zset    what g must not be given: held or committed; scores as in q:order
--   q:leases:<g>       zset    what is held; score = when the lease ends (ms)
--   q:lapsed:<g>       set     what is free because its lease ran out, and could be renewed by its last holder
--   q:members:<g>      set     users
--   q:consumer:<n>:<g>.<u>  hash  connection, floor, window, auto, tags, seen, index, left, gone, token, given
local LOW = 4503599627370496
local RUN = ARGV[1]
-- Messages reach the listeners of all databases, so the database's number stands in the channel's name.
local CHANNEL = ':wake:' .. string.match(RUN, '^%d+')
local call = redis.call

local clock = call('TIME')
local NOW = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function num(value) return string.format('%.0f', value) end
local function stream_of(q, score) return q .. (score < LOW and ':high' or ':low') end
local function index_of(score) return score < LOW and score or score - LOW end
local function consumer_key(q, g, u) return q .. ':consumer:' .. #g .. ':' .. g .. '.' .. u end
local function tag_key(q, k, v) return q .. ':tag:' .. #k .. ':' .. k .. '=' .. v end
-- Only tags that somebody may filter by have an index: those of clients, and whose an item is (call.py, USER); request ids
-- have q:ids.
local function is_indexed(k) return k ~= 'requestId' and (string.sub(k, 1, 1) ~= '_' or k == '_user_') end

-- The place of item `i` in q:order; nil when it is not there.
local function score_of(q, i) return tonumber(call('ZSCORE', q .. ':order', i) or nil) end

-- The fields of an entry (flat list), or nil.
local function load(q, i, score)
  local found = call('XRANGE', stream_of(q, score), i .. '-0', i .. '-0')
  return found[1] and found[1][2]
end

local function field(fields, name)
  for at = 1, #fields, 2 do
    if fields[at] == name then return fields[at + 1] end
  end
end

local function without_data(fields)
  local kept = {}
  for at = 1, #fields, 2 do
    if fields[at] ~= 'd' then
      kept[#kept + 1] = fields[at]
      kept[#kept + 1] = fields[at + 1]
    end
  end
  return kept
end

local function version(q)
  local state = call('HMGET', q .. ':state', 'index', 'turns')
  return tonumber(state[1] or 0) + tonumber(state[2] or 0)
end

-- Tells everyone who waits that something changed. Removing must work when memory is full, hence pcall.
local function changed(q)
  redis.pcall('HINCRBY', q .. ':state', 'turns', 1)
  local number = version(q)
  call('PUBLISH', q .. CHANNEL, num(number))
  return number
end

-- Tells everyone when the first lease ends, if that is sooner than it was and sooner than everyone looks by himself (once
-- a second).
local function lease_begins(q, g, deadline)
  if deadline - NOW > 3000 then return end
  local first = call('ZRANGE', q .. ':leases:' .. g, 0, 0, 'WITHSCORES')
  if not first[1] or deadline < tonumber(first[2]) then
    call('PUBLISH', q .. CHANNEL, num(version(q)) .. ' ' .. num(deadline - NOW))
  end
end

local function ensure_group(q, g)
  if call('SADD', q .. ':groups', g) == 1 then
    call('HSET', q .. ':group:' .. g, 'born', NOW)
    call('XGROUP', 'CREATE', q .. ':high', g, '0', 'MKSTREAM')
    call('XGROUP', 'CREATE', q .. ':low', g, '0', 'MKSTREAM')
  end
end

-- A queue that a script writes to for the first time becomes known to the sweep.
local function ensure_queue(q)
  call('SADD', string.match(q, '^[^}]*}') .. ':queues', q)
end

-- Adds an item whatever the limits say. Returns index, whether it is new, the new version.
local function append(q, id, priority, path, data, tags)
  local known = call('HGET', q .. ':ids', id)
  if known then return tonumber(known), false, version(q) end
  local i = call('HINCRBY', q .. ':state', 'index', 1)
  if i == 1 then ensure_queue(q) end
  local score = priority == '1' and i or i + LOW
  local entry = { 'c', num(NOW), 'p', path }
  for at = 1, #tags, 2 do
    entry[#entry + 1] = '=' .. tags[at]
    entry[#entry + 1] = tags[at + 1]
    if is_indexed(tags[at]) then call('ZADD', tag_key(q, tags[at], tags[at + 1]), num(score), i) end
  end
  entry[#entry + 1] = 'd'
  entry[#entry + 1] = data
  call('XADD', stream_of(q, score), i .. '-0', unpack(entry))
  call('ZADD', q .. ':order', num(score), i)
  call('HSET', q .. ':ids', id, i)
  local number = i + tonumber(call('HGET', q .. ':state', 'turns') or 0)
  call('PUBLISH', q .. CHANNEL, num(number))
  return i, true, number
end

-- Remembers a request that leaves; when memory is full, forgets it altogether instead.
local function remember(q, i, fields, how, result, by)
  local id, created = field(fields, '=requestId') or '', field(fields, 'c')
  local is_result = string.find(q, '/', 1, true)
  -- A result and its request are forgotten at the same moment, however early the result was read.
  local kept = redis.pcall('ZADD', q .. ':gone', is_result and created or num(NOW), id)
  if type(kept) == 'table' and kept.err then
    call('HDEL', q .. ':ids', id)
  elseif not is_result then
    local record = { 'i', i, 's', how, 'c', created, 'f', num(NOW), 'by', by or '' }
    if result and #result <= 65536 then
      record[#record + 1] = 'r'
      record[#record + 1] = result
    end
    for at = 1, #fields, 2 do
      if string.sub(fields[at], 1, 1) == '=' then
        record[#record + 1] = fields[at]
        record[#record + 1] = fields[at + 1]
      end
    end
    redis.pcall('HSET', q .. ':task:' .. id, unpack(record))
  end
end

-- Takes item `i` out for every group. `how`: done or failed; nil: forget its request id too. Returns its fields.
local function remove(q, i, score, how, result, by)
  local fields = load(q, i, score)
  local stream, entry = stream_of(q, score), i .. '-0'
  if how then
    remember(q, i, fields, how, result, by)
  else
    call('HDEL', q .. ':ids', field(fields, '=requestId') or '')
  end
  for _, g in ipairs(call('SMEMBERS', q .. ':groups')) do
    call('XACK', stream, g, entry)
    call('ZREM', q .. ':away:' .. g, i)
    call('ZREM', q .. ':leases:' .. g, i)
    call('SREM', q .. ':lapsed:' .. g, i)
  end
  for at = 1, #fields, 2 do
    local k = fields[at]
    if string.sub(k, 1, 1) == '=' and is_indexed(string.sub(k, 2)) then
      call('ZREM', tag_key(q, string.sub(k, 2), fields[at + 1]), i)
    end
  end
  call('XDEL', stream, entry)
  call('ZREM', q .. ':order', i)
  call('ZREM', q .. ':committed', i)
  return fields
end

local function is_done(q, g, i)
  return call('ZSCORE', q .. ':away:' .. g, i) and not call('ZSCORE', q .. ':leases:' .. g, i)
end

-- Whether a group with consumers, other than `g`, still has to see item `i`.
local function is_wanted(q, g, i)
  for _, other in ipairs(call('SMEMBERS', q .. ':groups')) do
    if other ~= g and call('SCARD', q .. ':members:' .. other) > 0 and not is_done(q, other, i) then return true end
  end
  return false
end

-- Group `g` is done with item `i`.
local function commit(q, g, i, score)
  if not is_wanted(q, g, i) then
    remove(q, i, score, 'done')
    return
  end
  ensure_group(q, g)
  call('ZADD', q .. ':away:' .. g, num(score), i)
  call('ZADD', q .. ':committed', num(score), i)
  call('ZREM', q .. ':leases:' .. g, i)
  call('SREM', q .. ':lapsed:' .. g, i)
  call('XACK', stream_of(q, score), g, i .. '-0')
end

-- Who was given item `i` last and how often it was given; nil, 0 when never.
local function holder(q, g, i, score)
  local found = call('XPENDING', stream_of(q, score), g, i .. '-0', i .. '-0', 1)[1]
  if found then return found[2], found[4] end
  return nil, 0
end

-- Makes item `i` deliverable: nothing at or behind it may count as away any more.
local function set_free(q, g, i, score)
  if call('ZREM', q .. ':away:' .. g, i) == 1 then
    local class = score < LOW and 'high' or 'low'
    local reached = tonumber(call('HGET', q .. ':group:' .. g, class) or 0)
    if reached >= score then call('HSET', q .. ':group:' .. g, class, num(score - 1)) end
  end
end

-- Returns how often it was given, this time included when `counts`.
local function give_back(q, g, i, score, counts)
  local user, count = holder(q, g, i, score)
  call('ZREM', q .. ':leases:' .. g, i)
  call('SREM', q .. ':lapsed:' .. g, i)
  set_free(q, g, i, score)
  if counts or count == 0 then return count end
  local stream, entry = stream_of(q, score), i .. '-0'
  if count == 1 then
    call('XACK', stream, g, entry)
  else
    call('XCLAIM', stream, g, user, 0, entry, 'RETRYCOUNT', count - 1, 'JUSTID')
  end
  return count - 1
end

-- Every index that `u` was given and nobody else since, as {index, score} pairs.
local function given_to(q, g, u)
  local all = {}
  for class, base in pairs({ high = 0, low = LOW }) do
    local from = '-'
    repeat
      local page = call('XPENDING', q .. ':' .. class, g, from, '+', 1000, u)
      for _, entry in ipairs(page) do
        local i = tonumber(string.match(entry[1], '^%d+'))
        all[#all + 1] = { i, i + base }
        from = '(' .. entry[1]
      end
    until #page < 1000
  end
  return all
end

-- Gives back all that `u` holds; how many that was.
local function give_back_all(q, g, u)
  local given = 0
  for _, pair in ipairs(given_to(q, g, u)) do
    local i, score = pair[1], pair[2]
    if call('ZSCORE', q .. ':leases:' .. g, i) or call('SISMEMBER', q .. ':lapsed:' .. g, i) == 1 then
      give_back(q, g, i, score, true)
      given = given + 1
    end
  end
  return given
end

-- A server that was restarted could not be reached for a while: nobody's lease may have run out by that alone. Those who
-- live have half a lease from now to renew; registrations begin anew.
local function grant_grace(q, groups)
  call('HSET', q .. ':state', 'run', RUN)
  for _, g in ipairs(groups) do
    local grace = NOW + math.floor(tonumber(call('HGET', q .. ':group:' .. g, 'lease') or 0) / 2)
    for _, i in ipairs(call('ZRANGEBYSCORE', q .. ':leases:' .. g, '-inf', num(grace))) do
      call('ZADD', q .. ':leases:' .. g, num(grace), i)
    end
    for _, u in ipairs(call('SMEMBERS', q .. ':members:' .. g)) do
      call('HSET', consumer_key(q, g, u), 'seen', num(NOW))
    end
  end
end

-- Frees what is held by leases that ran out, in all groups or in group `mine`. Belongs at the start of every script that
-- looks at who holds what. Returns the groups.
local function expire(q, mine)
  local run, freed = call('HGET', q .. ':state', 'run'), false
  local groups = mine and run == RUN and { mine } or call('SMEMBERS', q .. ':groups')
  if run ~= RUN and groups[1] then
    if run then grant_grace(q, groups) else call('HSET', q .. ':state', 'run', RUN) end
  end
  for _, g in ipairs(groups) do
    for _, i in ipairs(call('ZRANGEBYSCORE', q .. ':leases:' .. g, '-inf', num(NOW))) do
      call('SADD', q .. ':lapsed:' .. g, i)
      call('ZREM', q .. ':leases:' .. g, i)
      set_free(q, g, i, score_of(q, i))
      freed = true
    end
  end
  if freed then changed(q) end
  return groups
end

-- The tags of a filter: list of zsets that an item must be in, and the index that a request id names (0: unknown id).
local function filter_of(q, tags)
  local keys, only = {}, nil
  for at = 1, #tags, 2 do
    if tags[at] == 'requestId' then
      only = tonumber(call('HGET', q .. ':ids', tags[at + 1]) or 0)
    else
      keys[#keys + 1] = tag_key(q, tags[at], tags[at + 1])
    end
  end
  table.sort(keys, function(a, b) return call('ZCARD', a) < call('ZCARD', b) end)
  return keys, only
end

local function has_all(keys, i)
  for _, key in ipairs(keys) do
    if not call('ZSCORE', key, i) then return false end
  end
  return true
end

-- Calls visit(i, score) for the items that match, scores above `from` and up to `to`, ascending, until it returns true.
-- Returns the last score visited.
local function walk(q, keys, only, from, to, visit)
  if only then
    local score = score_of(q, only)
    if score and score > from and score <= to and has_all(keys, only) then visit(only, score) end
    return from
  end
  local source, reached = keys[1] or q .. ':order', from
  local chunk = 16
  while true do
    local page = call('ZRANGEBYSCORE', source, '(' .. num(reached), num(to), 'WITHSCORES', 'LIMIT', 0, chunk)
    for at = 1, #page, 2 do
      local i, score = tonumber(page[at]), tonumber(page[at + 1])
      reached = score
      if has_all(keys, i) and visit(i, score) then return reached end
    end
    if #page < 2 * chunk then return reached end
    chunk = 500
  end
end

local function slice(list, from, to)
  local part = {}
  for at = from, to or #list do part[#part + 1] = list[at] end
  return part
end
