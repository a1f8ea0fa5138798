-- End entries of the inbox: no longer pending, no longer there.
-- KEYS: stream   ARGV: group, ids
for i = 2, #ARGV do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('XDEL', KEYS[1], ARGV[i])
end
