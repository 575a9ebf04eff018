-- What every change has in common.
-- ARGV: how many changes and how many events are remembered, for how long a commit is (milliseconds), the entry, the
-- revision that it is expected to have ('' if it must not be there), its new contents, the event ('' if none).
-- Answers 1 and the commit's revision, or, where the entry is not as expected, 0 and the newest revision.
local now, resumed, micros, history = clock()
if not now then return redis.error_reply(NO_HISTORY) end
local entry, expected, value, event = ARGV[4], ARGV[5], ARGV[6], ARGV[7]

-- It was sent before, and its answer was lost. The write lets WAIT wait for it.
local done = redis.call('GET', receipt)
if done then
  redis.call('PEXPIRE', receipt, ARGV[3])
  return {1, done}
end

local function conflict()
  return {0, redis.call('HGET', meta, 'revision')}
end

local function revision_of(held)
  return held and string.match(held, '^%d+') or ''
end

local function append(kind, last)
  local revision = text(redis.call('HINCRBY', meta, 'revision', 1))
  redis.call('XADD', changes, 'MAXLEN', '~', ARGV[1], revision .. '-0',
    'history', history, 'at', micros, 'kind', kind, 'entry', entry, 'value', value, 'last', last, 'event', event)
  if event ~= '' then
    redis.call('XADD', events, 'MAXLEN', '~', ARGV[2], revision .. '-0', 'at', micros, 'event', event)
  end
  redis.call('SET', receipt, revision, 'PX', ARGV[3])
  return revision
end
