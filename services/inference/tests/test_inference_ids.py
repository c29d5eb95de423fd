"""Ids of predictions: random ones of version 4, each once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from readmit_inference.domain import new_id


def test_ids_are_random_uuids_and_no_two_threads_get_the_same() -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda _: new_id(), range(20_000)))
    assert len(set(ids)) == len(ids)
    uuids = [UUID(one) for one in ids]
    assert [str(one) for one in uuids] == ids
    assert {(one.version, one.variant) for one in uuids} == {(4, "specified in RFC 4122")}
    for bit in set(range(128)) - {*range(76, 80), 62, 63}:  # all but those of version and variant
        assert 0.45 < sum(one.int >> bit & 1 for one in uuids) / len(ids) < 0.55
