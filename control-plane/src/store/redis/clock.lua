-- What the scripts about leases and changes begin with.
local meta, instances, names, empty, leases, deadlines, changes, events, resources, receipt = unpack(KEYS)
-- Control planes look for lapsed leases every second. Where nobody did anything for this long (in milliseconds),
-- the server or all of them were away, and so were the beats.
local STANDSTILL = 3000
local NO_HISTORY = 'NOHISTORY the registry is gone from this server'

local function text(number)
  return string.format('%.0f', number)
end

-- The server's time in milliseconds, when it last began to serve again after a standstill, its time in
-- microseconds, and the history; nothing if there is none.
local function clock()
  local time = redis.call('TIME')
  local seconds, micros = tonumber(time[1]), tonumber(time[2])
  local now = seconds * 1000 + math.floor(micros / 1000)
  local known = redis.call('HMGET', meta, 'history', 'alive', 'resumed')
  if not known[1] then return nil end
  local alive, resumed = tonumber(known[2] or now), tonumber(known[3] or 0)
  if now - alive > STANDSTILL then
    resumed = now
    redis.call('HSET', meta, 'resumed', text(now))
  end
  if not known[2] or now < alive or now - alive > 500 then
    redis.call('HSET', meta, 'alive', text(now))
  end
  return now, resumed, text(seconds * 1000000 + micros), known[1]
end

-- When a lease lapses: after a standstill not before its full length has passed.
local function lapses_at(deadline, lease, resumed)
  local length = tonumber(string.match(lease, ' (%d+)$'))
  return math.max(tonumber(deadline or 0), resumed + length)
end
