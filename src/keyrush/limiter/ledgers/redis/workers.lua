-- Notes that a process is at work, and forgets those that were not noted for too long.
--
-- KEYS  the sorted set of processes, scored by when each was noted last
-- ARGV  the process, milliseconds that one note lasts, now in Unix milliseconds or "" for this
--       server's clock
-- Answers with all processes that are at work.

local now = tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[2]))
-- Those noted by a clock that has stepped back since.
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('%.0f', now + ARGV[2]), '+inf')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZRANGE', KEYS[1], 0, -1)
