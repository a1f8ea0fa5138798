-- Let a job's lease end later, or now.
-- KEYS: record, jobs   ARGV: id, fence, milliseconds of a lease
-- Fails with LOST.
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[2] then
  return redis.error_reply('LOST')
end
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3]), ARGV[1])
end
return 1
