-- Removes an instance and its lease; the contents are those of its service, should this be the last instance.
-- ARGV[8..]: whether only while the lease is lapsed, the service.
local only_lapsed, service = ARGV[8] == '1', ARGV[9]
if revision_of(redis.call('HGET', instances, entry)) ~= expected then return conflict() end
local lease = redis.call('HGET', leases, entry)
if only_lapsed and lease and lapses_at(redis.call('ZSCORE', deadlines, entry), lease, resumed) > now then
  return conflict()
end
redis.call('HDEL', instances, entry)
redis.call('ZREM', names, entry)
redis.call('HDEL', leases, entry)
redis.call('ZREM', deadlines, entry)
-- '0' is what follows '/'.
local others = redis.call('ZRANGEBYLEX', names, '[' .. service .. '/', '(' .. service .. '0', 'LIMIT', 0, 1)
local revision = append('removed', #others == 0 and '1' or '')
if #others == 0 then
  redis.call('HSET', empty, service, revision .. ' ' .. value)
end
return {1, revision}
