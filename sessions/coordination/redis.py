"""The coordinator of several processes: Redis. See ``port.py``.

Each operation is one Lua script, which Redis runs whole and by its own clock: processes whose
clocks differ agree all the same. All keys of an installation begin alike, so that several may share
a server; a key forgets itself when it says nothing any more. Lease tokens are kept longer than the
leases, and a Redis that lost them starts above ``floor``.
"""

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from sessions.coordination.port import Charge, CoordinationLost, Lease, Rate

WAIT_S: Final = 1.0
"""How long an operation waits for the server."""
CONNECTIONS: Final = 16

_TOKENS_KEPT_S: Final = 7 * 86_400

_ACQUIRE: Final = """
local held, token = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
if held then
  if held ~= ARGV[1] then return 0 end
  if token and tonumber(token) >= tonumber(ARGV[3]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return tonumber(token)
  end
end
local next = math.max(tonumber(token or '0'), tonumber(ARGV[3])) + 1
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], string.format('%.0f', next), 'EX', ARGV[4])
return next
"""

_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('GET', KEYS[2]) == ARGV[2] then
  redis.call('DEL', KEYS[1])
end
return 0
"""

# A bucket is a hash of its units and of the server's seconds when it had them. One that is full is
# the same as none, and is forgotten when it must have become so.
_TAKE: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local asked, full, forced = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local bucket = redis.call('HMGET', KEYS[1], 'units', 'at')
local units = full
if bucket[1] then
  local flown_in = math.max(0, now - tonumber(bucket[2])) * full / 60
  units = math.min(full, tonumber(bucket[1]) + flown_in)
end
local missing = math.min(asked, full) - units
if missing > 0 and not forced then
  return {0, string.format('%.6f', missing * 60 / full), string.format('%.6f', units)}
end
units = math.min(full, units - asked)
if units >= full then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'units', string.format('%.6f', units),
    'at', string.format('%.6f', now))
  redis.call('EXPIRE', KEYS[1], math.ceil((full - units) * 60 / full) + 1)
end
return {1, '0', string.format('%.6f', units)}
"""


class RedisCoordinator:
    """A ``Coordinator`` on a Redis server; connects at first use."""

    def __init__(self, url: str, prefix: str) -> None:
        """``url`` is ``redis://…``, ``rediss://…`` or ``unix://…``; every key begins with
        ``prefix``, the same in every process of the installation. Raises ValueError."""
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=WAIT_S,
            socket_timeout=WAIT_S,
            socket_connect_timeout=WAIT_S,
            # Trying again is left to who knows what else to do.
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = Redis.from_pool(pool)
        self._prefix = prefix
        self._acquire = self._redis.register_script(_ACQUIRE)
        self._release = self._redis.register_script(_RELEASE)
        self._take = self._redis.register_script(_TAKE)

    async def acquire(self, name: str, holder: str, ttl_s: float, floor: int) -> Lease | None:
        arguments: list[str | int] = [holder, max(1, round(ttl_s * 1000)), floor, _TOKENS_KEPT_S]
        token = await self._run(self._acquire, self._lease_keys(name), arguments)
        return Lease(name, holder, token) if token else None

    async def release(self, lease: Lease) -> None:
        keys = self._lease_keys(lease.name)
        await self._run(self._release, keys, [lease.holder, lease.token])

    async def charge(self, bucket: str, units: int, rate: Rate) -> Charge:
        keys = [self._bucket_key(bucket)]
        allowed, wait_s, left = await self._run(self._take, keys, [units, rate.per_minute, 0])
        return Charge(bool(allowed), float(wait_s), max(0, int(float(left) // 1)))

    async def refund(self, bucket: str, units: int, rate: Rate) -> None:
        keys = [self._bucket_key(bucket)]
        await self._run(self._take, keys, [-units, rate.per_minute, 1])

    async def close(self) -> None:
        await self._redis.aclose()

    async def _run(self, script: Any, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        try:
            return await script(keys=keys, args=arguments)
        except (RedisError, OSError) as error:
            raise CoordinationLost(str(error)) from error

    def _lease_keys(self, name: str) -> list[str]:
        # In braces: both are on one node of a cluster.
        return [f"{self._prefix}:{{lease:{name}}}", f"{self._prefix}:{{lease:{name}}}:token"]

    def _bucket_key(self, bucket: str) -> str:
        return f"{self._prefix}:bucket:{bucket}"
