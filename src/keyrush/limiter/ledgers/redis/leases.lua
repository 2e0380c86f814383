-- Renews the lease of a process that holds slots, and ends those that were not renewed in time.
--
-- KEYS  the sorted set of processes, scored by when each was renewed last
-- ARGV  the process, milliseconds that a lease lasts, now in Unix milliseconds or "" for this
--       server's clock; then other processes, whose leases end
-- Answers with 1 where its lease had not ended, else 0; and then with all processes that have one.

local now = tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
for i = 4, #ARGV do
  redis.call('ZREM', KEYS[1], ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[2]))
-- Those noted by a clock that has stepped back since.
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('%.0f', now + ARGV[2]), '+inf')
local was = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {was, unpack(redis.call('ZRANGE', KEYS[1], 0, -1))}
