-- Claim a record, or the first job whose lease has run out.
-- KEYS: jobs   ARGV: id ('' for any job), milliseconds of a lease, record key without its id
-- Returns {id, fence}, or nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local candidates = {ARGV[1]}
if ARGV[1] == '' then
  candidates = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)
end
for _, id in ipairs(candidates) do
  if redis.call('EXISTS', ARGV[3] .. id) == 1 then
    if redis.call('ZSCORE', KEYS[1], id) then
      redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), id)
    end
    return {id, redis.call('HINCRBY', ARGV[3] .. id, 'fence', 1)}
  end
  redis.call('ZREM', KEYS[1], id)
end
return false
