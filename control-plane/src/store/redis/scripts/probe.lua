-- Tries every command that the other scripts use, on keys of its own, which are gone when it ends. A script that was
-- refused a command halfway would leave its change half made. Answers the commands that are refused.
local hash, set, stream, plain = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local refused, failure = {}, nil

local function try(command, ...)
  local reply = redis.pcall(command, ...)
  if type(reply) ~= 'table' or not reply.err then return end
  local why = string.lower(reply.err)
  if string.find(why, 'noperm') or string.find(why, 'no permission') or string.find(why, "can't run this") then
    table.insert(refused, string.lower(command))
  else
    failure = reply
  end
end

try('TIME')
try('HSET', hash, 'field', '1')
try('HGET', hash, 'field')
try('HMGET', hash, 'field')
try('HINCRBY', hash, 'field', 1)
try('HSCAN', hash, 0)
try('HDEL', hash, 'field')
try('ZADD', set, 0, 'member')
try('ZSCORE', set, 'member')
try('ZRANGEBYLEX', set, '-', '+', 'LIMIT', 0, 1)
try('ZRANGEBYSCORE', set, '-inf', '+inf', 'LIMIT', 0, 1)
try('ZREM', set, 'member')
try('XADD', stream, 'MAXLEN', '~', 1, '*', 'field', '1')
try('XRANGE', stream, '-', '+', 'COUNT', 1)
try('XREAD', 'COUNT', 1, 'STREAMS', stream, '0-0')
try('XTRIM', stream, 'MAXLEN', 0)
try('SET', plain, '1', 'PX', 1000)
try('GET', plain)
try('PEXPIRE', plain, 1000)
try('DEL', hash, set, stream, plain)
if failure then return failure end
return refused
