-- From now on what is here is all that is registered.
redis.call('HSET', meta, 'complete', '1')
return {1, append('completed', '')}
