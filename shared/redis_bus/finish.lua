-- End entries of the inbox: no longer pending, no longer there. What an entry's request used counts once, however often
-- this is repeated.
-- KEYS: stream, cases, usage of this hour, usage log
-- ARGV: group, the stream's name in `cases`, seconds that usage is kept, records kept, then for each entry: id, record of
--   its usage ('' for none), number of sums, and name and amount of each
local at = 5
while at <= #ARGV do
  local id, record, sums = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local was_there = redis.call('XACK', KEYS[1], ARGV[1], id)
  redis.call('XDEL', KEYS[1], id)
  redis.call('HDEL', KEYS[2], ARGV[2] .. ':' .. id)
  if was_there == 1 and record ~= '' then
    for i = at + 3, at + 1 + 2 * sums, 2 do
      redis.call('HINCRBY', KEYS[3], ARGV[i], ARGV[i + 1])
    end
    redis.call('EXPIRE', KEYS[3], ARGV[3])
    redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[4], '*', 'd', record)
    redis.call('EXPIRE', KEYS[4], ARGV[3])
  end
  at = at + 3 + 2 * sums
end
