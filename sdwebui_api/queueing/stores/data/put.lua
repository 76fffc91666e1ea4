-- KEYS q; ARGV run, priority, path, data, max_length (-1: none), then tags.
local q = KEYS[1]
local priority, path, data, most = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local tags = slice(ARGV, 6)
local id = field(tags, 'requestId')
local known = call('HGET', q .. ':ids', id)
if known then return { tonumber(known), 0, num(version(q)) } end
if call('HGET', q .. ':state', 'ended') then return 'ended' end
if most >= 0 and call('ZCARD', q .. ':order') >= most then return 'full' end
local i, _, number = append(q, id, priority, path, data, tags)
return { i, 1, num(number) }
