-- Renews leases. ARGV: pairs of instance and epoch. Answers a letter for each: 'r'enewed, 'u'nknown, 's'tale. An epoch
-- newer than the lease's is one that Redis has lost.
local now = clock()
if not now then return redis.error_reply(NO_HISTORY) end
local outcomes = {}
for at = 1, #ARGV, 2 do
  local lease = redis.call('HGET', leases, ARGV[at])
  local epoch, length
  if lease then epoch, length = string.match(lease, '^(%d+) (%d+)$') end
  if not lease or tonumber(ARGV[at + 1]) > tonumber(epoch) then
    table.insert(outcomes, 'u')
  elseif epoch ~= ARGV[at + 1] then
    table.insert(outcomes, 's')
  else
    redis.call('ZADD', deadlines, text(now + tonumber(length)), ARGV[at])
    table.insert(outcomes, 'r')
  end
end
return table.concat(outcomes)
