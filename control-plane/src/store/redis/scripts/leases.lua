-- A page of a service's leases. ARGV: the range of instances (from, to), how many at most. Answers the last instance
-- that was looked at ('' at the end), and for each lease the instance, the lease, and what is left in milliseconds.
local now, resumed = clock()
if not now then return redis.error_reply(NO_HISTORY) end
local page = redis.call('ZRANGEBYLEX', names, ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local found = {}
for _, instance in ipairs(page) do
  local lease = redis.call('HGET', leases, instance)
  if lease then
    local at = lapses_at(redis.call('ZSCORE', deadlines, instance), lease, resumed)
    table.insert(found, instance)
    table.insert(found, lease)
    table.insert(found, text(math.max(at - now, 0)))
  end
end
return {page[#page] or '', found}
