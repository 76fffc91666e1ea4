-- KEYS q; ARGV run, group, user, connection.
local q, g, u = KEYS[1], ARGV[2], ARGV[3]
local key = consumer_key(q, g, u)
if call('HGET', key, 'connection') ~= ARGV[4] then return num(version(q)) end
call('HSET', key, 'left', num(NOW), 'connection', '')
if give_back_all(q, g, u) > 0 then return num(changed(q)) end
return num(version(q))
