-- Append a result to its writer's log, and only then publish its parts: what is published is in the log.
-- KEYS: results, writers   ARGV: writer, step id, id that the log has reached, results kept, result, then channel and
--   batch of each gateway
-- Fails with SEALED if the log is closed or its writer forgotten, with LOST and its last id if its end is missing;
-- returns 0 if this very result is there already.
local function is_before(a, b)
  local a_epoch, a_step = string.match(a, '(%d+)-(%d+)')
  local b_epoch, b_step = string.match(b, '(%d+)-(%d+)')
  return tonumber(a_epoch) < tonumber(b_epoch) or (a_epoch == b_epoch and tonumber(a_step) < tonumber(b_step))
end

if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  return redis.error_reply('SEALED ' .. ARGV[1] .. ' is not among the writers')
end
local entry = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last = entry and entry[1] or '0-0'
if string.sub(last, -21) ~= '-18446744073709551615' and is_before(last, ARGV[3]) then
  return redis.error_reply('LOST ' .. last)
end
if not is_before(last, ARGV[2]) then
  local there = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
  if there and there[2][2] == ARGV[5] then
    return 0
  end
  return redis.error_reply('SEALED ' .. ARGV[1] .. ' may not write ' .. ARGV[2])
end
local added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], ARGV[2], 'd', ARGV[5])
if type(added) == 'table' and added.err then
  if string.find(added.err, 'equal or smaller', 1, true) then
    return redis.error_reply('SEALED ' .. ARGV[1] .. ' may not write ' .. ARGV[2])
  end
  return added
end
for i = 6, #ARGV, 2 do
  redis.call('PUBLISH', ARGV[i], ARGV[i + 1])
end
return 1
