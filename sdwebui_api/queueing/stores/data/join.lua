-- KEYS q; ARGV run, group, user, connection, window, auto, start, then tags.
local q, g, u = KEYS[1], ARGV[2], ARGV[3]
local start = tonumber(ARGV[7])
ensure_queue(q)
ensure_group(q, g)
local freed = give_back_all(q, g, u)
local newest = tonumber(call('HGET', q .. ':state', 'index') or 0)
local key = consumer_key(q, g, u)
local given = call('HGET', key, 'index') or 0
call('DEL', key)
call('HSET', key, 'connection', ARGV[4], 'window', ARGV[5], 'auto', ARGV[6], 'seen', num(NOW), 'index', given,
  'floor', start < 0 and newest + 1 or start)
for at = 8, #ARGV, 2 do call('HSET', key, '=' .. ARGV[at], ARGV[at + 1]) end
call('SADD', q .. ':members:' .. g, u)
return freed > 0 and num(changed(q)) or num(version(q))
