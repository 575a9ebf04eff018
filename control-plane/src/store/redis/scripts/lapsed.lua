-- A page of the leases that have lapsed. ARGV: how many to skip, how many at most. Answers how many were looked at,
-- in how many milliseconds the next one of the others lapses ('' if none will), and instance and lease in turn.
local now, resumed = clock()
if not now then return redis.error_reply(NO_HISTORY) end
local due = redis.call('ZRANGEBYSCORE', deadlines, '-inf', text(now), 'LIMIT', ARGV[1], ARGV[2])
local next_at
local function later(at)
  if not next_at or at < next_at then next_at = at end
end
local lapsed = {}
for _, instance in ipairs(due) do
  local lease = redis.call('HGET', leases, instance)
  if lease then
    local at = lapses_at(0, lease, resumed)
    if at > now then
      later(at)
    else
      table.insert(lapsed, instance)
      table.insert(lapsed, lease)
    end
  end
end
local after = redis.call('ZRANGEBYSCORE', deadlines, '(' .. text(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if after[2] then later(tonumber(after[2])) end
return {#due, next_at and text(next_at - now) or '', lapsed}
