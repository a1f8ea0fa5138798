-- Give the lease up, if it is ours.
-- KEYS: lead   ARGV: own name
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
