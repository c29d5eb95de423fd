"""How much one client may ask: a token bucket each."""

from __future__ import annotations

import time
from collections.abc import Callable

from readmit_chassis.access.client import Client, Limit

#: What rounding may take from a whole token.
_ROUNDING = 1e-9


class TokenBucket:
    """Starts full. Time comes as an argument, in seconds of any clock that never goes back."""

    __slots__ = ("_at_s", "_level")

    def __init__(self, limit: Limit, now_s: float) -> None:
        self._level = float(limit.burst)
        self._at_s = now_s

    def take(self, limit: Limit, now_s: float) -> float:
        """0.0 and one token less, or how many seconds it takes until there is one. A changed limit counts at once."""
        level = self.level(limit, now_s)
        self._at_s = now_s
        if level >= 1.0 - _ROUNDING:
            self._level = max(0.0, level - 1.0)
            return 0.0
        self._level = level
        return (1.0 - level) / limit.requests_per_s

    def level(self, limit: Limit, now_s: float) -> float:
        """The tokens that are there now."""
        return min(float(limit.burst), self._level + (now_s - self._at_s) * limit.requests_per_s)


class RateLimiter:
    """The buckets of this pod, by the client's name."""

    def __init__(self, *, capacity: int = 10_000, now: Callable[[], float] = time.monotonic) -> None:
        """`capacity`: subjects of tokens are as many as their issuer likes, memory is not."""
        self._capacity = capacity
        self._now = now
        self._buckets: dict[str, tuple[TokenBucket, Limit]] = {}

    def take(self, client: Client) -> float:
        """0.0 where the client may go on, else the seconds it has to wait."""
        limit = client.limit
        if limit is None:
            return 0.0
        now_s = self._now()
        known = self._buckets.get(client.name)
        if known is None:
            if len(self._buckets) >= self._capacity:
                self._make_room(now_s)
            known = self._buckets[client.name] = (TokenBucket(limit, now_s), limit)
        return known[0].take(limit, now_s)

    def _make_room(self, now_s: float) -> None:
        """A full bucket is as good as none, so those go first; failing that, the tenth that was made first."""
        self._buckets = {
            name: (bucket, limit)
            for name, (bucket, limit) in self._buckets.items()
            if bucket.level(limit, now_s) < limit.burst
        }
        if len(self._buckets) >= self._capacity:
            for name in list(self._buckets)[: self._capacity // 10 + 1]:
                del self._buckets[name]
