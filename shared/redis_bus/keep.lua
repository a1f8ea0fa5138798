-- Remember, beside requests, what is held against them and tokens of their outputs: each part behind what is there of its
-- output, or from 0 on in its place. A part that would leave a gap is passed over.
-- KEYS: lead, cases, then where each part's output is kept
-- ARGV: own name, seconds that cases are kept, seconds that outputs are, then first byte and bytes of each part, then entry
--   and case of each case
-- Fails with LOST if another scheduler leads.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('LOST')
end
local at = 4
for i = 3, #KEYS do
  local first, bytes = tonumber(ARGV[at]), ARGV[at + 1]
  if first == 0 then
    redis.call('SET', KEYS[i], bytes)
  elseif redis.call('STRLEN', KEYS[i]) >= first then
    redis.call('SETRANGE', KEYS[i], first, bytes)
  end
  redis.call('EXPIRE', KEYS[i], ARGV[3])
  at = at + 2
end
for i = at, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
if at <= #ARGV then
  redis.call('EXPIRE', KEYS[2], ARGV[2])
end
return 1
