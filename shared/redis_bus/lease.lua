-- Become, or remain, leader. A new term's epoch is above the last one, and above it even if Redis has lost its data.
-- KEYS: lead, epoch, lead's connection   ARGV: own name, milliseconds, own last epoch, own connection or ''
-- Returns the epoch, or nothing while another one leads.
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then
  return false
end
local epoch = tonumber(redis.call('GET', KEYS[2]) or '0')
if not leader or epoch < math.max(1, tonumber(ARGV[3])) then
  epoch = math.max(epoch + 1, tonumber(ARGV[3]) + 1, tonumber(redis.call('TIME')[1]))
  redis.call('SET', KEYS[2], epoch)
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[2])
return epoch
