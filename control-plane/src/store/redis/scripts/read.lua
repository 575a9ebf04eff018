-- A page of the instances, together with the changes that were made while the pages before it were read. ARGV: the
-- first instance, how many, the id of the first change, how many.
-- Answers the history, the newest revision, whether it is complete, the instances' names, their contents, the changes,
-- and the oldest change that is remembered.
local meta, instances, names, changes = KEYS[1], KEYS[2], KEYS[3], KEYS[7]
local known = redis.call('HMGET', meta, 'history', 'revision', 'complete')
if not known[1] then return redis.error_reply('NOHISTORY the registry is gone from this server') end
local page, contents = {}, {}
if ARGV[2] ~= '0' then
  page = redis.call('ZRANGEBYLEX', names, ARGV[1], '+', 'LIMIT', 0, ARGV[2])
end
if #page > 0 then
  contents = redis.call('HMGET', instances, unpack(page))
end
return {known[1], known[2], known[3] or '', page, contents,
  redis.call('XRANGE', changes, ARGV[3], '+', 'COUNT', ARGV[4]),
  redis.call('XRANGE', changes, '-', '+', 'COUNT', 1)}
