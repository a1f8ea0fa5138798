-- Which of these entries are there.
-- KEYS: stream   ARGV: ids
-- Returns 0 or 1 for each.
local held = {}
for i = 1, #ARGV do
  held[i] = #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])
end
return held
