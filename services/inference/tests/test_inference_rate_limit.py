"""Token buckets: never more than the limit in any stretch of time, never less for who keeps to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readmit_chassis.access.client import Client, Limit
from readmit_inference.access.rate_limit import RateLimiter, TokenBucket
from readmit_inference.access.scopes import SCOPES

limits = st.builds(Limit, st.floats(0.1, 1000), st.integers(1, 100))
gaps_s = st.lists(st.floats(0, 20) | st.just(0.0), min_size=1, max_size=200)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def client(name: str, limit: Limit | None) -> Client:
    return Client(name, name, SCOPES.default, limit)


@given(limits, gaps_s)
def test_in_no_stretch_of_time_more_is_granted_than_the_burst_and_what_has_come_in_since(
    limit: Limit, gaps_s: list[float]
) -> None:
    now_s, granted = 0.0, list[float]()
    bucket = TokenBucket(limit, now_s)
    for gap_s in gaps_s:
        now_s += gap_s
        if bucket.take(limit, now_s) == 0.0:
            granted.append(now_s)
    for first, start_s in enumerate(granted):
        for last in range(first, len(granted)):
            allowed = limit.burst + limit.requests_per_s * (granted[last] - start_s)
            assert last - first + 1 <= allowed + 1e-6


@given(limits, gaps_s)
def test_who_waits_as_long_as_told_is_let_in_and_a_moment_earlier_is_not(limit: Limit, gaps_s: list[float]) -> None:
    now_s = 0.0
    bucket = TokenBucket(limit, now_s)
    for gap_s in gaps_s:
        now_s += gap_s
        wait_s = bucket.take(limit, now_s)
        if wait_s > 0.0:
            assert bucket.take(limit, now_s + 0.99 * wait_s) > 0.0
            now_s += wait_s * (1 + 1e-9)
            assert bucket.take(limit, now_s) == 0.0


@given(limits, st.integers(1, 200))
def test_who_keeps_to_the_rate_is_never_refused(limit: Limit, requests: int) -> None:
    bucket = TokenBucket(limit, 0.0)
    assert [bucket.take(limit, k / limit.requests_per_s) for k in range(requests)] == [0.0] * requests


def test_clients_have_buckets_of_their_own_and_who_has_no_limit_none() -> None:
    limiter = RateLimiter(now=Clock())
    one, other, free = client("one", Limit(1, 2)), client("other", Limit(1, 2)), client("free", None)
    assert [limiter.take(one) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert limiter.take(other) == 0.0
    assert {limiter.take(free) for _ in range(100)} == {0.0}


def test_a_changed_limit_counts_at_once() -> None:
    limiter = RateLimiter(now=Clock())
    assert [limiter.take(client("one", Limit(1, 1))) for _ in range(2)] == [0.0, 1.0]
    assert limiter.take(client("one", Limit(4, 1))) == 0.25


def test_memory_is_bounded_and_what_has_to_go_is_what_is_not_missed() -> None:
    clock = Clock()
    limiter = RateLimiter(capacity=10, now=clock)
    for k in range(9):
        limiter.take(client(f"early-{k}", Limit(1, 1)))
    clock.now_s += 5  # they are full again
    busy = client("busy", Limit(0.001, 1))
    limiter.take(busy)
    for k in range(1000):
        limiter.take(client(f"late-{k}", Limit(0.001, 1)))
        assert len(limiter._buckets) <= 10
        if k < 5:
            assert limiter.take(busy) > 0.0


@pytest.mark.parametrize("requests_per_s", [0.5, 3.0])
def test_after_a_pause_the_burst_is_there_again_and_no_more(requests_per_s: float) -> None:
    limit = Limit(requests_per_s, 3)
    bucket = TokenBucket(limit, 0.0)
    assert sum(bucket.take(limit, 0.0) == 0.0 for _ in range(10)) == 3
    assert sum(bucket.take(limit, 1e6) == 0.0 for _ in range(10)) == 3
