-- Takes from windows and gives back to them: `grant` and `give_back` of keyrush.windows, restated.
--
-- KEYS  the windows of all requests, in their order
-- ARGV  now in Unix milliseconds, or "" for this server's clock; SHARE; then for each request
--       "take" or "give", cost, extra or taken_at, how many windows, and for each of these
--       length, amount
-- Answers with now, and for each take granted and, for each window, index, current, previous.
--
-- All numbers are integers below 2^53, which doubles hold exactly. A counter is kept as the text
-- "index:current:previous" until it no longer counts, two periods from where its own began.

local function div(a, b)
  return (a - a % b) / b
end

local SHARE = tonumber(ARGV[2])
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + div(tonumber(time[2]), 1000)
end

local counters = {} -- by key, as they stand
local changes = {} -- keys of those to write, once each
local expiry = {} -- by key: milliseconds from now, or false to leave it as stored

local stored = #KEYS > 0 and redis.call('MGET', unpack(KEYS)) or {}
for i, key in ipairs(KEYS) do
  if stored[i] and not counters[key] then
    local index, current, previous = string.match(stored[i], '^(%d+):(%d+):(%d+)$')
    counters[key] = {tonumber(index), tonumber(current), tonumber(previous)}
  end
end

local function change(key, index, current, previous, expires)
  if expiry[key] == nil then
    changes[#changes + 1] = key
  end
  counters[key] = {index, current, previous}
  expiry[key] = expires or expiry[key] or false
end

local function roll(counter, index)
  if not counter then
    return {index, 0, 0}
  end
  local last = counter[1]
  if last == index or last == index + 1 then
    return counter
  elseif last == index - 1 then
    return {index, 0, counter[2]}
  end
  return {index, 0, 0}
end

local function used(counter, length)
  local left = counter[1] > div(now, length) and length or length - now % length
  return counter[2] + div(counter[3] * left, length)
end

local answer = {now}

local function take(keys, lengths, amounts, cost, extra)
  local rolled = {}
  local room
  for i, key in ipairs(keys) do
    rolled[i] = roll(counters[key], div(now, lengths[i]))
    local left = amounts[i] - used(rolled[i], lengths[i])
    room = room and math.min(room, left) or left
  end
  room = room or 0
  local granted = 0
  if room >= cost and (cost ~= 0 or extra ~= 0) then
    granted = cost + math.min(extra, div(math.max(0, room - cost), SHARE))
  end
  answer[#answer + 1] = granted
  for i, key in ipairs(keys) do
    local index, current, previous = unpack(rolled[i])
    if granted ~= 0 then
      current = current + granted
      change(key, index, current, previous, (index + 2) * lengths[i] - now)
    end
    answer[#answer + 1] = index
    answer[#answer + 1] = current
    answer[#answer + 1] = previous
  end
end

local function give_back(keys, lengths, cost, taken_at)
  for i, key in ipairs(keys) do
    local period = div(taken_at, lengths[i])
    local counter = counters[key]
    local expires
    if cost < 0 and not counter then
      counter = roll(counter, period)
      expires = (period + 2) * lengths[i] - now
    end
    if counter and (expires or 1) > 0 then -- otherwise nothing of it counts
      local index, current, previous = unpack(counter)
      if index <= period then
        change(key, index, math.max(0, current - cost), previous, expires)
      elseif index == period + 1 then
        change(key, index, current, math.max(0, previous - cost))
      end
    end
  end
end

local key, argument = 1, 3
while ARGV[argument] do
  local name = ARGV[argument]
  local cost, other = tonumber(ARGV[argument + 1]), tonumber(ARGV[argument + 2])
  local count = tonumber(ARGV[argument + 3])
  local keys, lengths, amounts = {}, {}, {}
  for i = 1, count do
    keys[i] = KEYS[key]
    lengths[i] = tonumber(ARGV[argument + 2 + 2 * i])
    amounts[i] = tonumber(ARGV[argument + 3 + 2 * i])
    key = key + 1
  end
  argument = argument + 4 + 2 * count
  if name == 'take' then
    take(keys, lengths, amounts, cost, other)
  else
    give_back(keys, lengths, cost, other)
  end
end

for _, changed in ipairs(changes) do
  local text = string.format('%.0f:%.0f:%.0f', unpack(counters[changed]))
  if expiry[changed] then
    redis.call('SET', changed, text, 'PX', string.format('%.0f', expiry[changed]))
  else
    redis.call('SET', changed, text, 'KEEPTTL')
  end
end

return answer
