-- Takes from windows and gives back to them: `grant_together` and `give_back` of core.sliding,
-- restated.
--
-- KEYS  the windows of all calls, in their order
-- ARGV  now in Unix milliseconds, or "" for this server's clock; SHARE; then for each call
--       "take" or "give", how many parts, and of each cost, extra or taken_at, how many windows,
--       and for each of these length, amount
-- Answers with now, and for each part of a take granted and, for each window, index, current,
-- previous. Of a take all parts are granted what they cost, or none anything.
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

-- In what follows, the windows of a part begin in KEYS at `key`, their lengths and amounts in
-- ARGV at `argument`. In `answer` what was granted to it goes to `out`; three numbers follow for
-- each window.

-- Answers with the windows as they stand, and returns what is left in all of them.
local function look(key, argument, windows, out)
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
  answer[out] = 0
  return room or 0
end

local function grant(key, argument, windows, out, room, cost, extra)
  local share = room > cost and div(room - cost, SHARE) or 0
  local granted = cost + (extra < share and extra or share)
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

local function between(count, length) -- nothing and `sliding.most`
  return math.min(math.max(0, count), div(2 ^ 53, length))
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
        put(at, last, between(count - cost, length), before, expires)
      elseif last == period + 1 then
        put(at, last, count, between(before - cost, length))
      end
    end
  end
end

local key, argument = 1, 3
while ARGV[argument] do
  local is_take, parts = ARGV[argument] == 'take', number(ARGV[argument + 1])
  local refused, last = false, nil
  argument = argument + 2
  for _ = 1, parts do
    local cost, other = number(ARGV[argument]), number(ARGV[argument + 1])
    local windows = number(ARGV[argument + 2])
    argument = argument + 3
    if not is_take then
      give_back(key, argument, windows, cost, other)
    else
      local out = #answer + 1
      local room = look(key, argument, windows, out)
      refused = refused or (cost > 0 and room < cost)
      if parts > 1 then
        last = {last, key, argument, windows, out, room, cost, other}
      elseif not refused then
        grant(key, argument, windows, out, room, cost, other)
      end
    end
    key, argument = key + windows, argument + 2 * windows
  end
  while last and not refused do -- none of the parts has refused
    grant(unpack(last, 2))
    last = last[1]
  end
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
