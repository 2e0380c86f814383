-- Takes from windows and gives back to them: `grant` and `give_back` of core.sliding, restated.
--
-- KEYS  the windows of all calls, in their order
-- ARGV  now in Unix milliseconds, or "" for this server's clock; SHARE; then for each call
--       "take" or "give", cost, extra or taken_at, how many windows, and for each of these
--       length, amount
-- Answers with now, and for each take granted and, for each window, index, current, previous.
--
-- All numbers are integers below 2^53, which doubles hold exactly. A counter is kept as the text
-- "index:current:previous" until it no longer counts, two periods from where its own began.

local call, number, match, format = redis.call, tonumber, string.match, string.format

local SHARE = number(ARGV[2])
local now = number(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + (time[2] - time[2] % 1000) / 1000
end

-- Counters as they stand, each at the first place of its key in KEYS; nil where there is none.
local place, index, current, previous = {}, {}, {}, {}
-- Those to write: in how many milliseconds they expire, or false to leave that as stored.
local expiry = {}

local stored = #KEYS > 0 and call('MGET', unpack(KEYS)) or {}
for i = 1, #KEYS do
  if not place[KEYS[i]] then
    place[KEYS[i]] = i
    if stored[i] then
      local a, b, c = match(stored[i], '^(%d+):(%d+):(%d+)$')
      index[i], current[i], previous[i] = number(a), number(b), number(c)
    end
  end
end

local function div(a, b)
  return (a - a % b) / b
end

local function roll(at, period)
  local last = index[at]
  if last == period or last == period + 1 then
    return last, current[at], previous[at]
  elseif last == period - 1 then
    return period, 0, current[at]
  end
  return period, 0, 0
end

local function put(at, last, count, before, expires)
  index[at], current[at], previous[at] = last, count, before
  expiry[at] = expires or expiry[at] or false
end

local answer = {now}

-- In what follows, the windows of a call begin in KEYS at `key`, their lengths and amounts in
-- ARGV at `argument`.

local function take(key, argument, windows, cost, extra)
  local out = #answer + 1 -- where what was granted goes; three numbers follow for each window
  local room
  for i = 0, windows - 1 do
    local length, amount = number(ARGV[argument + 2 * i]), number(ARGV[argument + 2 * i + 1])
    local period = div(now, length)
    local last, count, before = roll(place[KEYS[key + i]], period)
    local left = last > period and length or length - now % length
    left = amount - count - div(before * left, length)
    if not room or left < room then
      room = left
    end
    local at = out + 3 * i
    answer[at + 1], answer[at + 2], answer[at + 3] = last, count, before
  end
  room = room or 0
  local granted = 0
  if room >= cost and (cost > 0 or extra > 0) then
    local share = div(room - cost, SHARE)
    granted = cost + (extra < share and extra or share)
  end
  answer[out] = granted
  if granted > 0 then
    for i = 0, windows - 1 do
      local at, length = out + 3 * i, number(ARGV[argument + 2 * i])
      local last, count = answer[at + 1], answer[at + 2] + granted
      answer[at + 2] = count
      put(place[KEYS[key + i]], last, count, answer[at + 3], (last + 2) * length - now)
    end
  end
end

local function give_back(key, argument, windows, cost, taken_at)
  for i = 0, windows - 1 do
    local length = number(ARGV[argument + 2 * i])
    local period = div(taken_at, length)
    local at = place[KEYS[key + i]]
    local last, count, before, expires = index[at], current[at], previous[at], nil
    if cost < 0 and not (last and last >= period) then
      last, count, before = roll(at, period)
      expires = (period + 2) * length - now
    end
    if last and (expires or 1) > 0 then -- otherwise nothing of it counts
      if last <= period then
        put(at, last, math.max(0, count - cost), before, expires)
      elseif last == period + 1 then
        put(at, last, count, math.max(0, before - cost))
      end
    end
  end
end

local key, argument = 1, 3
while ARGV[argument] do
  local cost, other = number(ARGV[argument + 1]), number(ARGV[argument + 2])
  local windows = number(ARGV[argument + 3])
  if ARGV[argument] == 'take' then
    take(key, argument + 4, windows, cost, other)
  else
    give_back(key, argument + 4, windows, cost, other)
  end
  key, argument = key + windows, argument + 4 + 2 * windows
end

for at = 1, #KEYS do
  if expiry[at] ~= nil then
    local text = format('%d:%d:%d', index[at], current[at], previous[at])
    if expiry[at] then
      call('SET', KEYS[at], text, 'PX', expiry[at])
    else
      call('SET', KEYS[at], text, 'KEEPTTL')
    end
  end
end

return answer
