-- Take a request in, unless the pool is full. An entry of the stream is a request that waits or runs.
-- KEYS: requests   ARGV: most requests, message
-- Returns {1 if taken in, requests found, id of the new entry}
local num_requests = redis.call('XLEN', KEYS[1])
if num_requests >= tonumber(ARGV[1]) then
  return {0, num_requests, ''}
end
return {1, num_requests, redis.call('XADD', KEYS[1], '*', 'd', ARGV[2])}
