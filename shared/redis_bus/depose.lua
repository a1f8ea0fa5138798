-- Let a lease run out now: the connection by which it is held is closed.
-- KEYS: lead, lead's connection   ARGV: leader, connection
if redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('GET', KEYS[2]) == ARGV[2] then
  redis.call('DEL', KEYS[1])
end
