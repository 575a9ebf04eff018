-- Begins the registry's history if there is none, and a new term where this server may not hold all that its
-- predecessor acknowledged: it was started since, or took over. A term begins above every revision that is known of
-- here, at a distance of its own, so that no revision stands for two changes, and remembers no change from before it.
-- Whoever comes new has not seen what may be lost: it is not complete.
-- Where a control plane has seen what is not here, it is lost for certain, and another history begins: what is missing
-- from that was not removed.
-- ARGV: the server's run id, an id for a new history, the latest revision seen, the format. Answers the history.
local meta, changes, events = KEYS[1], KEYS[7], KEYS[8]
local run, history, seen, format = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local TERM = 1000000
-- How much is kept of the gaps between terms: about a hundred of them.
local GAPS = 3000

local function above(revision)
  local distance = 1 + (tonumber(string.sub(history, 1, 3), 16) or 0)
  return string.format('%.0f', (math.floor(revision / TERM) + distance) * TERM)
end

local known = redis.call('HMGET', meta, 'history', 'run', 'revision', 'format', 'gaps')
if known[4] and known[4] ~= format then
  return redis.error_reply('NEWFORMAT the registry is kept in format ' .. known[4] .. ', this control plane reads ' .. format)
end
if not known[1] then
  local first = '0'
  if seen > 0 then first = above(seen) end
  redis.call('DEL', changes, events)
  redis.call('HSET', meta, 'history', history, 'run', run, 'revision', first, 'format', format)
  return history
end
local revision = tonumber(known[3]) or 0
-- Behind the last change of a term, and before the next term's first, nothing is held.
local gaps = known[5] or ''
local lost = seen > revision
for last, first in string.gmatch(gaps, '(%d+)%-(%d+)') do
  lost = lost or (seen > tonumber(last) and seen < tonumber(first))
end
if known[2] == run and not lost then return known[1] end
local first = above(math.max(revision, seen))
redis.call('XTRIM', changes, 'MAXLEN', 0)
redis.call('HDEL', meta, 'complete')
if lost then
  -- Others who have seen what is lost notice that the history is another one.
  redis.call('HDEL', meta, 'gaps')
else
  -- Those who have seen more may come later.
  history = known[1]
  gaps = string.format('%s %.0f-%s', gaps, revision, first)
  redis.call('HSET', meta, 'gaps', string.match(string.sub(gaps, -GAPS), ' .*'))
end
redis.call('HSET', meta, 'history', history, 'run', run, 'revision', first)
return history
