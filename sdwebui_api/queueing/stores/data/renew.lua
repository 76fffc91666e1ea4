-- KEYS q; ARGV run, group, user, connection, lease (ms), then indexes. Answers 'replaced' or the indexes still held.
local q, g, u = KEYS[1], ARGV[2], ARGV[3]
local key = consumer_key(q, g, u)
if call('HGET', key, 'connection') ~= ARGV[4] then return 'replaced' end
local deadline, held = NOW + tonumber(ARGV[5]), {}
call('HSET', key, 'seen', num(NOW))
call('HDEL', key, 'gone')
for at = 6, #ARGV do
  local i = tonumber(ARGV[at])
  local score = score_of(q, i)
  if score and holder(q, g, i, score) == u then
    local leased = call('ZSCORE', q .. ':leases:' .. g, i)
    if leased or call('SISMEMBER', q .. ':lapsed:' .. g, i) == 1 then
      lease_begins(q, g, deadline)
      call('ZADD', q .. ':leases:' .. g, num(deadline), i)
      call('ZADD', q .. ':away:' .. g, num(score), i)
      call('SREM', q .. ':lapsed:' .. g, i)
      held[#held + 1] = i
    end
  end
end
return held
