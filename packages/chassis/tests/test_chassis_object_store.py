"""One contract for object stores, held by the fake and by a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from readmit_chassis.s3 import MemoryStore, ObjectMissing, ObjectStore, S3Store, StoreUnavailable, split_uri
from readmit_chassis.settings import S3Settings
from readmit_chassis.testing import free_port, s3_server

URI = "s3://bucket/folder/thing.bin"


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.stack)])
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with s3_server("bucket") as settings:
        yield S3Store(settings)


def test_what_was_put_is_got_and_overwritten(store: ObjectStore) -> None:
    store.put(URI, b"one")
    store.put(URI, b"\x00two\xff")
    assert store.get(URI) == b"\x00two\xff"
    assert store.exists(URI)


def test_what_is_not_there_is_missing_not_an_outage(store: ObjectStore) -> None:
    assert not store.exists(URI)
    with pytest.raises(ObjectMissing):
        store.get(URI)


def test_a_uri_that_is_not_s3_is_refused(store: ObjectStore) -> None:
    with pytest.raises(ValueError, match="s3://bucket/key"):
        store.get("file:///etc/passwd")


def test_an_object_is_read_from_anywhere_while_it_is_the_one_that_was_meant(store: ObjectStore) -> None:
    store.put(URI, b"one two three")
    about = store.stat(URI)
    assert about.size_bytes == 13
    assert b"".join(store.blocks(URI, etag=about.etag)) == b"one two three"
    assert b"".join(store.blocks(URI, etag=about.etag, offset=4)) == b"two three"
    store.put(URI, b"another text")
    assert store.stat(URI).etag != about.etag
    with pytest.raises(StoreUnavailable):
        list(store.blocks(URI, etag=about.etag))
    with pytest.raises(ObjectMissing):
        store.stat("s3://bucket/nothing")


def test_what_is_left_unread_can_be_given_up(store: ObjectStore) -> None:
    data = bytes(range(256)) * 20_000
    store.put(URI, data)
    blocks = store.blocks(URI, etag=store.stat(URI).etag, offset=10)
    assert data[10:].startswith(next(blocks))
    del blocks
    assert store.get(URI) == data


def test_what_is_under_a_prefix_is_listed(store: ObjectStore) -> None:
    for name in ("in/a.csv", "in/deep/b.csv", "out/c.csv"):
        store.put(f"s3://bucket/{name}", b"x")
    assert sorted(store.under("s3://bucket/in/")) == ["s3://bucket/in/a.csv", "s3://bucket/in/deep/b.csv"]
    assert store.under("s3://bucket/nowhere/") == []


def test_an_outage_is_transient() -> None:
    away = S3Store(
        S3Settings(endpoint_url=f"http://127.0.0.1:{free_port()}", access_key="key", secret_key=SecretStr("secret"))
    )
    with pytest.raises(StoreUnavailable):
        away.get(URI)
    fake = MemoryStore()
    fake.available = False
    with pytest.raises(StoreUnavailable):
        fake.get(URI)


def test_bucket_and_key_are_told_apart() -> None:
    assert split_uri("s3://b/a/c.txt") == ("b", "a/c.txt")
