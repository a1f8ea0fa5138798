-- Append a result to its writer's log, and only then publish its parts: what is published is in the log.
-- KEYS: results, writers   ARGV: writer, step id, results kept, result, then channel and batch of each gateway
-- Fails with SEALED if the log is closed, or its writer forgotten; returns 0 if this very result is there already.
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  return redis.error_reply('SEALED ' .. ARGV[1] .. ' is not among the writers')
end
local added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], ARGV[2], 'd', ARGV[4])
if type(added) == 'table' and added.err then
  if not string.find(added.err, 'equal or smaller', 1, true) then
    return added
  end
  local there = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
  if there and there[2][2] == ARGV[4] then
    return 0
  end
  return redis.error_reply('SEALED ' .. ARGV[1] .. ' may not write ' .. ARGV[2])
end
for i = 5, #ARGV, 2 do
  redis.call('PUBLISH', ARGV[i], ARGV[i + 1])
end
return 1
