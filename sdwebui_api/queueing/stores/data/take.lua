-- KEYS q; ARGV run, group, user, connection, limit, lease (ms), index_only, token, auto, then
-- the consumer's tags.
-- Answers 'replaced', 'ended' or a list of {index, count, priority, fields}.
--
-- The token names this attempt. When an answer was lost on its way, the next attempt brings the same token and is given
-- the same items again, not counted a second time. An answer ends early when it has 64 MiB.
local q, g, u = KEYS[1], ARGV[2], ARGV[3]
local limit, lease, index_only, token = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1', ARGV[8]
local key, group = consumer_key(q, g, u), q .. ':group:' .. g
local me = call('HMGET', key, 'connection', 'floor', 'seen', 'token', 'given', 'index', 'gone')
if me[1] ~= ARGV[4] then return 'replaced' end

local function delivery(i, count, score, fields)
  return { i, count, score < LOW and 1 or 0, index_only and without_data(fields) or fields }
end

local function given_before()
  local again = {}
  for text in string.gmatch(me[5], '%d+') do
    local i = tonumber(text)
    local score = score_of(q, i)
    if score and call('ZSCORE', q .. ':leases:' .. g, i) then
      local user, count = holder(q, g, i, score)
      if user == u then
        call('ZADD', q .. ':leases:' .. g, num(NOW + lease), i)
        again[#again + 1] = delivery(i, count, score, load(q, i, score))
      end
    end
  end
  return again
end

if me[4] == token then
  local again = given_before()
  if again[1] then return again end
end
expire(q, g)

local floor, auto = tonumber(me[2]), ARGV[9] == '1'
local keys, only = filter_of(q, slice(ARGV, 10))
local filtered = only or keys[1]
local known = call('HMGET', group, 'high', 'low', 'top', 'lease')
local top = tonumber(known[3] or 0)
local chosen, moved = {}, {}
local function choose(i, score)
  if not call('ZSCORE', q .. ':away:' .. g, i) then chosen[#chosen + 1] = { i, score } end
  return #chosen == limit
end
for number, class in ipairs({ 'high', 'low' }) do
  local base, frontier = (number - 1) * LOW, tonumber(known[number] or (number - 1) * LOW)
  if #chosen < limit then
    local from = math.max(frontier, base + floor - 1)
    local reached = walk(q, keys, only, from, base + LOW - 1, choose)
    -- Whoever reads everything from the frontier on moves it: all that was passed is away now.
    if not filtered and from == frontier and reached > frontier then
      moved[#moved + 1] = class
      moved[#moved + 1] = num(reached)
    end
  end
end

-- Whether something may still come for this consumer: held by somebody and not done.
local function may_come_back()
  local found = false
  for base = 0, LOW, LOW do
    if not found then
      walk(q, keys, only, math.max(base, base + floor - 1), base + LOW - 1, function(i)
        found = not is_done(q, g, i)
        return found
      end)
    end
  end
  return found
end

if #chosen == 0 then
  if me[7] or NOW - tonumber(me[3]) > 1000 then
    call('HSET', key, 'seen', num(NOW))
    call('HDEL', key, 'gone')
  end
  if call('HGET', q .. ':state', 'ended') and limit > 0 and not may_come_back() then return 'ended' end
  return {}
end

local newest, given, answers, bytes = tonumber(me[6]), {}, {}, 0
if not auto then lease_begins(q, g, NOW + lease) end
for _, pair in ipairs(chosen) do
  local i, score = pair[1], pair[2]
  local stream, entry = stream_of(q, score), i .. '-0'
  local count = 1
  if i <= top then
    local _, before = holder(q, g, i, score)
    count = before + 1
  end
  if not auto then
    call('ZADD', q .. ':leases:' .. g, num(NOW + lease), i)
    call('ZADD', q .. ':away:' .. g, num(score), i)
    local claimed = call('XCLAIM', stream, g, u, 0, entry, 'RETRYCOUNT', count, 'FORCE')
    call('SREM', q .. ':lapsed:' .. g, i)
    answers[#answers + 1] = delivery(i, count, score, claimed[1][2])
  else
    answers[#answers + 1] = delivery(i, count, score, load(q, i, score))
    commit(q, g, i, score)
  end
  given[#given + 1] = i
  newest = math.max(newest, i)
  top = math.max(top, i)
  bytes = bytes + #(field(answers[#answers][4], 'd') or '')
  if bytes > 67108864 then
    moved = {}
    break
  end
end
call('HSET', key, 'seen', num(NOW), 'index', newest, 'token', token, 'given', table.concat(given, ' '))
if me[7] then call('HDEL', key, 'gone') end
call('HSET', group, 'top', top, 'lease', lease, unpack(moved))
for at = 1, #moved, 2 do
  call('XGROUP', 'SETID', q .. ':' .. moved[at], g, num(index_of(tonumber(moved[at + 1]))) .. '-0')
end
if auto then changed(q) end
return answers
