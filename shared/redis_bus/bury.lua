-- Write a dead letter, once, and remember beside its entry that this is done.
-- KEYS: dead letters, cases, lead   ARGV: own name, entry, letter, closed case, letters kept, seconds that cases are kept
-- Fails with LOST if another scheduler leads.
if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return redis.error_reply('LOST')
end
if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[4] then
  return 0
end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[5], '*', 'd', ARGV[3])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[6])
return 1
