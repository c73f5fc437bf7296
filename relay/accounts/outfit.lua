-- Read all that an owner (KEYS[1]) has set, as it is at one moment: its status (nil: no such owner), the version (nil: nothing was ever
-- set), and the hashes of settings, signers and policy, field and value in turn.
local status, version = unpack(redis.call('HMGET', KEYS[1], 'status', 'out'))
return {status, version,
        redis.call('HGETALL', KEYS[1] .. ':settings'), redis.call('HGETALL', KEYS[1] .. ':signers'), redis.call('HGETALL', KEYS[1] .. ':policy')}
