-- A worker's sign of life.
-- KEYS: the worker's status, writers, the worker's connection   ARGV: worker, status, milliseconds, connection or ''
-- Fails with SEALED if the writer has been forgotten: its streams may be gone, and it must take a new name.
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  return redis.error_reply('SEALED ' .. ARGV[1] .. ' is not among the writers')
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], redis.call('TIME')[1], ARGV[1])
return 1
