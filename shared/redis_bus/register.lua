-- Put a writer among the writers, and close its streams, if they are new, to the ids of all earlier leaders.
-- A leader that lists the writers after it has got its lease finds this one there, or is not an earlier one.
-- KEYS: results, plans, writers, epoch   ARGV: writer
redis.call('ZADD', KEYS[3], redis.call('TIME')[1], ARGV[1])
local epoch = redis.call('GET', KEYS[4])
if epoch then
  for i = 1, 2 do
    if redis.call('EXISTS', KEYS[i]) == 0 then
      redis.call('XADD', KEYS[i], epoch .. '-0', 'd', '')
      redis.call('XDEL', KEYS[i], epoch .. '-0')
    end
  end
end
