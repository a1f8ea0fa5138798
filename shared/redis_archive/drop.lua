-- Forget a record.
-- KEYS: record, parts, listed, expiry, sizes, jobs   ARGV: id
-- Returns 1 if it was there.
local was_there = redis.call('EXISTS', KEYS[1])
local size = redis.call('HGET', KEYS[5], ARGV[1])
if size then
  redis.call('HINCRBY', KEYS[5], '', 0 - tonumber(size))
  redis.call('HDEL', KEYS[5], ARGV[1])
end
if redis.call('HLEN', KEYS[5]) == 1 then
  redis.call('DEL', KEYS[5])
end
for i = 3, 6 do
  if i ~= 5 then redis.call('ZREM', KEYS[i], ARGV[1]) end
end
redis.call('DEL', KEYS[1], KEYS[2])
return was_there
