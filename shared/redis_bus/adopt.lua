-- Take over what other consumers were given: dead ones, and one that does not know yet that it lost the lease.
-- KEYS: stream, lead   ARGV: group, own name, milliseconds after which an idle consumer without entries is removed
-- Returns the number of entries that are ours now, those that we were given before included; none if we do not lead.
if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  return 0
end
local ours = 0
for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #fields, 2 do
    consumer[fields[i]] = fields[i + 1]
  end
  if consumer.name == ARGV[2] then
    ours = ours + consumer.pending
  else
    local pending = {}
    if consumer.pending > 0 then
      pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', consumer.pending, consumer.name)
    end
    for _, entry in ipairs(pending) do
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, entry[1], 'JUSTID')
    end
    ours = ours + #pending
    if #pending == 0 and consumer.idle > tonumber(ARGV[3]) then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    end
  end
end
return ours
