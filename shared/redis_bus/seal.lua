-- Close a dead writer's streams with the largest id of our epoch, and let them expire.
-- KEYS: results, plans, writers
-- ARGV: writer, id of the seal, seconds until it expires, keys of results and of plans without their writer
-- Fails with NEWER if a later epoch has written to them.
for i = 1, 2 do
  local added = redis.pcall('XADD', KEYS[i], ARGV[2], 'd', '')
  if type(added) == 'table' and added.err then
    if not string.find(added.err, 'equal or smaller', 1, true) then
      return added
    end
    local last = redis.call('XREVRANGE', KEYS[i], '+', '-', 'COUNT', 1)[1]
    if not last or string.sub(last[1], -21) ~= '-18446744073709551615' then
      return redis.error_reply('NEWER ' .. KEYS[i] .. ' belongs to a later epoch')
    end
  end
  redis.call('EXPIRE', KEYS[i], ARGV[3])
end
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[3], now, ARGV[1])
for _, writer in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - tonumber(ARGV[3]))) do
  if redis.call('XLEN', ARGV[4] .. writer) == 0 then
    redis.call('ZREM', KEYS[3], writer)
    redis.call('DEL', ARGV[4] .. writer, ARGV[5] .. writer)
  end
end
return 1
