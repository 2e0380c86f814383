-- Takes from windows and gives back to them: `grant_together` and `give_back` of core.sliding,
-- restated.
--
-- KEYS  the windows of all calls, in their order
-- ARGV  now in Unix milliseconds, or "" for this server's clock; SHARE; then for each part of a
--       call "take" or "give", cost, extra or taken_at, how many windows, and for each of these
--       length, amount; before those of a take of several parts, which go without "take",
--       "together" and how many
-- Answers with now, and for each part of a take granted and, for each window, index, current,
-- previous. Of a take all parts are granted what they cost, or none anything.
--
-- All numbers are integers below 2^53, which doubles hold exactly. A counter is kept as the text
-- "index:current:previous" until it no longer counts, two periods from where its own began.

local call, number, match, format = redis.call, tonumber, string.match, string.format

local SHARE = number(ARGV[2])
local MOST = 4000 -- keys of one command: a function has no more than 8,000 arguments
local now = number(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + (time[2] - time[2] % 1000) / 1000
end

-- Counters as they stand, each at the first place of its key in KEYS; nil where there is none.
local place, index, current, previous = {}, {}, {}, {}
-- Those to write: in how many milliseconds they expire, or false to leave that as stored.
local expiry = {}

for first = 1, #KEYS, MOST do
  local stored = call('MGET', unpack(KEYS, first, math.min(#KEYS, first + MOST - 1)))
  for i = first, first + #stored - 1 do
    if not place[KEYS[i]] then
      place[KEYS[i]] = i
      local text = stored[i - first + 1]
      if text then
        local a, b, c = match(text, '^(%d+):(%d+):(%d+)$')
        index[i], current[i], previous[i] = number(a), number(b), number(c)
      end
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

-- Takes, or with `is_look` only answers with the windows as they stand, where that is not done: then
-- `room` is what is left in all of them. Returns that.
local function take(key, argument, windows, cost, extra, out, is_look, room)
  for i = 0, room and -1 or windows - 1 do
    local length, amount = number(ARGV[argument + 2 * i]), number(ARGV[argument + 2 * i + 1])
    local elapsed = now % length
    local period = (now - elapsed) / length
    local last, count, before = roll(place[KEYS[key + i]], period)
    local left = amount - count
    if before > 0 then
      left = left - div(before * (last > period and length or length - elapsed), length)
    end
    if not room or left < room then
      room = left
    end
    local at = out + 3 * i
    answer[at + 1], answer[at + 2], answer[at + 3] = last, count, before
  end
  room = room or 0
  local granted = 0
  if room >= cost and not is_look then
    granted = cost
    if extra > 0 then
      local share = div(room - cost, SHARE)
      granted = cost + (extra < share and extra or share)
    end
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
  return room
end

local function give_back(key, argument, windows, cost, taken_at)
  for i = 0, windows - 1 do
    local length = number(ARGV[argument + 2 * i])
    local period, most = div(taken_at, length), div(2 ^ 53, length) -- `sliding.most`
    local at = place[KEYS[key + i]]
    local last, count, before, expires = index[at], current[at], previous[at], nil
    if cost < 0 and not (last and last >= period) then
      last, count, before = roll(at, period)
      expires = (period + 2) * length - now
    end
    if last and (expires or 1) > 0 then -- otherwise nothing of it counts
      if last <= period then
        put(at, last, math.min(math.max(0, count - cost), most), before, expires)
      elseif last == period + 1 then
        put(at, last, count, math.min(math.max(0, before - cost), most))
      end
    end
  end
end

-- Takes what each part costs, or nothing of any. Returns where the next call begins.
local function take_together(first_key, first, parts)
  local begin, rooms, refused = #answer + 1, {}, false
  for pass = 1, 2 do
    local key, argument, out = first_key, first, begin
    for part = 1, parts do
      local cost, extra = number(ARGV[argument]), number(ARGV[argument + 1])
      local windows = number(ARGV[argument + 2])
      local room = take(key, argument + 3, windows, cost, extra, out, pass == 1, rooms[part])
      rooms[part], refused = room, refused or (cost > 0 and room < cost)
      key, argument, out = key + windows, argument + 3 + 2 * windows, out + 1 + 3 * windows
    end
    if refused or pass == 2 then
      return key, argument
    end
  end
end

local key, argument = 1, 3
while ARGV[argument] do
  local what = ARGV[argument]
  if what == 'together' then
    key, argument = take_together(key, argument + 2, number(ARGV[argument + 1]))
  else
    local cost, other = number(ARGV[argument + 1]), number(ARGV[argument + 2])
    local windows = number(ARGV[argument + 3])
    if what == 'take' then
      take(key, argument + 4, windows, cost, other, #answer + 1)
    else
      give_back(key, argument + 4, windows, cost, other)
    end
    key, argument = key + windows, argument + 4 + 2 * windows
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
