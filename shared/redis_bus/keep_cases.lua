-- Remember what is held against requests, beside their entries.
-- KEYS: cases, lead   ARGV: own name, seconds that cases are kept, then entry and case of each
-- Fails with LOST if another scheduler leads.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return redis.error_reply('LOST')
end
for i = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
