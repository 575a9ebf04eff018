-- Forgets a service without instances.
if revision_of(redis.call('HGET', empty, entry)) ~= expected then return conflict() end
redis.call('HDEL', empty, entry)
return {1, append('forgotten', '')}
