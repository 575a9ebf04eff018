-- Creates or replaces an instance. ARGV[8..]: what becomes of the lease ('grant', 'keep' or 'hold'), the epoch, the
-- length of the lease or the hold in milliseconds, the service.
local change, epoch, length, service = ARGV[8], ARGV[9], tonumber(ARGV[10]), ARGV[11]
if revision_of(redis.call('HGET', instances, entry)) ~= expected then return conflict() end
if change == 'hold' then
  local lease = redis.call('HGET', leases, entry)
  if not lease or lapses_at(redis.call('ZSCORE', deadlines, entry), lease, resumed) > now then return conflict() end
end
local revision = append('put', '')
redis.call('HSET', instances, entry, revision .. ' ' .. value)
redis.call('ZADD', names, 0, entry)
redis.call('HDEL', empty, service)
if change == 'grant' then
  redis.call('HSET', leases, entry, epoch .. ' ' .. text(length))
end
if change ~= 'keep' then
  redis.call('ZADD', deadlines, text(now + length), entry)
end
return {1, revision}
