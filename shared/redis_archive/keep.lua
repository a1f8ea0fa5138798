-- Create a record or change one, as one act.
-- KEYS: record, parts, listed, expiry, sizes, jobs
-- ARGV: 1 id, 2 fence ('' to create), 3 number of parts there are ('none' drops them), 4 milliseconds until it expires
--   ('' leaves that),--   5 '1' to list it, 6 job: '' leaves it, '0' ends it, else the milliseconds of a lease, 7 most jobs ('' for no bound),
--   8 most bytes, 9 '1' to drop the oldest for room, 10 record key without its id, 11 parts key without its id,
--   12 '1' if a document follows, 13 the document, then the parts
-- Fails with EXISTS, LOST, FULL <bytes used> <bytes new>, or CROWDED <jobs>.
local id, fence, count = ARGV[1], ARGV[2], tonumber(ARGV[3]) or 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function forget(other)
  redis.call('HINCRBY', KEYS[5], '', 0 - tonumber(redis.call('HGET', KEYS[5], other) or '0'))
  redis.call('HDEL', KEYS[5], other)
  for i = 3, 6 do
    if i ~= 5 then redis.call('ZREM', KEYS[i], other) end
  end
  redis.call('DEL', ARGV[10] .. other, ARGV[11] .. other)
end

for _, other in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, 100)) do
  forget(other)
end

local there = 0
if fence == '' then
  if redis.call('EXISTS', KEYS[1]) == 1 then
    return redis.error_reply('EXISTS')
  end
  if ARGV[7] ~= '' and redis.call('ZCARD', KEYS[6]) >= tonumber(ARGV[7]) then
    return redis.error_reply('CROWDED ' .. redis.call('ZCARD', KEYS[6]))
  end
else
  if redis.call('HGET', KEYS[1], 'fence') ~= fence then
    return redis.error_reply('LOST')
  end
  if ARGV[3] == 'none' then
    local dropped = tonumber(redis.call('HGET', KEYS[5], id)) - redis.call('HSTRLEN', KEYS[1], 'doc')
    redis.call('HINCRBY', KEYS[5], id, 0 - dropped)
    redis.call('HINCRBY', KEYS[5], '', 0 - dropped)
    redis.call('HSET', KEYS[1], 'parts', 0)
    redis.call('DEL', KEYS[2])
  end
  there = tonumber(redis.call('HGET', KEYS[1], 'parts'))
end
local first = 14 + there - count  -- parts before it have been appended by an earlier attempt

local added = 0
if ARGV[12] == '1' then
  added = #ARGV[13] - redis.call('HSTRLEN', KEYS[1], 'doc')
end
for i = first, #ARGV do
  added = added + #ARGV[i]
end
local most = tonumber(ARGV[8])
local function used()
  return tonumber(redis.call('HGET', KEYS[5], '') or '0')
end
if added > 0 and used() + added > most and ARGV[9] == '1' then
  for _, other in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
    if used() + added <= most then break end
    if other ~= id and not redis.call('ZSCORE', KEYS[6], other) then forget(other) end
  end
end
if added > 0 and used() + added > most then
  return redis.error_reply('FULL ' .. used() .. ' ' .. added)
end

if fence == '' then
  redis.call('HSET', KEYS[1], 'fence', 1, 'parts', 0)
end
if ARGV[12] == '1' then
  redis.call('HSET', KEYS[1], 'doc', ARGV[13])
end
for i = first, #ARGV do
  there = there + 1
  redis.call('XADD', KEYS[2], '0-' .. there, 'd', ARGV[i])
end
redis.call('HSET', KEYS[1], 'parts', there)
redis.call('HINCRBY', KEYS[5], id, added)
redis.call('HINCRBY', KEYS[5], '', added)
if ARGV[5] == '1' and not redis.call('ZSCORE', KEYS[3], id) then
  -- By the clock, and after all others even if the clock went back.
  local last = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
  redis.call('ZADD', KEYS[3], math.max(time[1] * 1000000 + time[2], tonumber(last or '0') + 1), id)
end
if ARGV[6] == '0' then
  redis.call('ZREM', KEYS[6], id)
elseif ARGV[6] ~= '' then
  redis.call('ZADD', KEYS[6], now + tonumber(ARGV[6]), id)
end
local expires = tonumber(redis.call('HGET', KEYS[1], 'expires'))
if ARGV[4] ~= '' then
  expires = now + tonumber(ARGV[4])
  redis.call('HSET', KEYS[1], 'expires', expires)
  redis.call('ZADD', KEYS[4], expires, id)
end
redis.call('PEXPIREAT', KEYS[1], expires)
redis.call('PEXPIREAT', KEYS[2], expires)
for i = 3, 6 do
  if redis.call('PTTL', KEYS[i]) < expires - now then
    redis.call('PEXPIREAT', KEYS[i], expires)
  end
end
return 1
