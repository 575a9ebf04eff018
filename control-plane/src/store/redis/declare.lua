-- Creates or replaces resources, all or none. ARGV[8] and on: for each its name, the revision that it is expected to
-- have ('' if it must not be there), and its contents. The entry and the value are what the stream has of them all.
for at = 8, #ARGV, 3 do
  if revision_of(redis.call('HGET', resources, ARGV[at])) ~= ARGV[at + 1] then return conflict() end
end
local revision = append('declared', '')
for at = 8, #ARGV, 3 do
  redis.call('HSET', resources, ARGV[at], revision .. ' ' .. ARGV[at + 2])
end
return {1, revision}
