-- Takes slots, and notes what processes hold: `limiter.slots.ledger.SlotCall`, one after another.
--
-- KEYS  of each call, the subjects of its changes, and then those of its wants
-- ARGV  milliseconds that a subject is kept for; then for each call the process; how many others
--       are gone, and which; how many changes there are, and what they add; how many wants, and
--       of each how many slots there are
-- Answers to each call with which want there was no slot for, from 0, or -1; and then with all
-- processes that hold some of that.
--
-- A subject is a hash of processes and how many slots each holds.

local call, number = redis.call, tonumber
local kept = ARGV[1]
local key, at = 1, 2

local function read()
  at = at + 1
  return ARGV[at - 1]
end

local function add(subject, process, count)
  if call('HINCRBY', subject, process, count) <= 0 then
    call('HDEL', subject, process)
  end
  call('PEXPIRE', subject, kept)
end

local function held(subject)
  local total = 0
  for _, count in ipairs(call('HVALS', subject)) do
    total = total + count
  end
  return total
end

local answers = {}
while ARGV[at] do
  local process, gone = read(), {}
  for i = 1, number(read()) do
    gone[i] = read()
  end
  for _ = 1, number(read()) do
    add(KEYS[key], process, read())
    key = key + 1
  end
  local wants, full = number(read()), -1
  for i = 0, wants - 1 do
    for _, other in ipairs(gone) do
      call('HDEL', KEYS[key + i], other)
    end
    if full < 0 and held(KEYS[key + i]) >= number(ARGV[at + i]) then
      full = i
    end
  end
  if full < 0 then
    for i = 0, wants - 1 do
      add(KEYS[key + i], process, 1)
    end
    answers[#answers + 1] = {full}
  else
    answers[#answers + 1] = {full, unpack(call('HKEYS', KEYS[key + full]))}
  end
  key, at = key + wants, at + wants
end
return answers
