"""An object store by URI: the S3 one, and a fake in memory that keeps the same contract."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Protocol

from readmit_chassis.failures import Transient
from readmit_chassis.settings import S3Settings

_BLOCK_BYTES = 1024 * 1024


class ObjectMissing(Exception):  # noqa: N818  named for what is the case
    """There is nothing at this URI."""


class StoreUnavailable(Transient):
    """The store cannot be reached or refuses everybody; later it may not."""


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """By what a store tells one state of an object from another, and its size."""

    etag: str
    size_bytes: int


class ObjectStore(Protocol):
    """Whole objects by `s3://bucket/key`. Calls block: use `asyncio.to_thread` on an event loop."""

    def put(self, uri: str, data: bytes) -> None:
        """Write or overwrite. Raises `StoreUnavailable`."""

    def get(self, uri: str) -> bytes:
        """Read all of it. Raises `ObjectMissing`, `StoreUnavailable`."""

    def exists(self, uri: str) -> bool:
        """Whether there is an object. Raises `StoreUnavailable`."""

    def stat(self, uri: str) -> ObjectStat:
        """What it is. Raises `ObjectMissing`, `StoreUnavailable`."""

    def blocks(self, uri: str, *, etag: str, offset: int = 0) -> Iterator[bytes]:
        """Its bytes from `offset` on, as they come, if it still has this tag.

        Raises as `stat`, also while it goes on; an object that has changed counts as unavailable: ask for `stat` again.
        """

    def under(self, uri: str) -> list[str]:
        """URIs of what is under `s3://bucket/prefix/`. Raises `ObjectMissing` (no such bucket), `StoreUnavailable`."""


class S3Store:
    """Any S3 server, path-style, signature version 4."""

    def __init__(self, settings: S3Settings) -> None:
        import boto3  # noqa: PLC0415  an extra, and slow to import
        from botocore.config import Config  # noqa: PLC0415

        self._client = boto3.client(
            "s3",
            endpoint_url=settings.endpoint_url,
            aws_access_key_id=settings.access_key,
            aws_secret_access_key=settings.secret_key.get_secret_value(),
            region_name=settings.region,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                # Not every S3 server knows the newer checksum headers; our digests cover every byte anyway.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                connect_timeout=3,
                read_timeout=20,
                retries={"max_attempts": 2, "mode": "standard"},
            ),
        )

    def put(self, uri: str, data: bytes) -> None:
        bucket, key = split_uri(uri)
        with _translated(uri):
            self._client.put_object(Bucket=bucket, Key=key, Body=data)

    def get(self, uri: str) -> bytes:
        bucket, key = split_uri(uri)
        with _translated(uri):
            data: bytes = self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
            return data

    def exists(self, uri: str) -> bool:
        bucket, key = split_uri(uri)
        try:
            with _translated(uri):
                self._client.head_object(Bucket=bucket, Key=key)
        except ObjectMissing:
            return False
        return True

    def stat(self, uri: str) -> ObjectStat:
        bucket, key = split_uri(uri)
        with _translated(uri):
            head = self._client.head_object(Bucket=bucket, Key=key)
        return ObjectStat(str(head["ETag"]), int(head["ContentLength"]))

    def blocks(self, uri: str, *, etag: str, offset: int = 0) -> Iterator[bytes]:
        bucket, key = split_uri(uri)
        with _translated(uri):
            answer = self._client.get_object(Bucket=bucket, Key=key, Range=f"bytes={offset}-", IfMatch=etag)
            with closing(answer["Body"]) as body:
                if answer["ETag"] != etag:  # not every S3 server knows If-Match
                    raise StoreUnavailable(f"{uri}: changed while it was read")
                yield from body.iter_chunks(_BLOCK_BYTES)

    def under(self, uri: str) -> list[str]:
        bucket, prefix = _split(uri)
        found = []
        with _translated(uri):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                found += [f"s3://{bucket}/{each['Key']}" for each in page.get("Contents", ())]
        return found


class MemoryStore:
    """The fake: a dictionary. `available = False` plays an outage."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.available = True

    def put(self, uri: str, data: bytes) -> None:
        self._check(uri)
        self.objects[uri] = bytes(data)

    def get(self, uri: str) -> bytes:
        self._check(uri)
        try:
            return self.objects[uri]
        except KeyError:
            raise ObjectMissing(uri) from None

    def exists(self, uri: str) -> bool:
        self._check(uri)
        return uri in self.objects

    def stat(self, uri: str) -> ObjectStat:
        data = self.get(uri)
        return ObjectStat(hashlib.sha256(data).hexdigest(), len(data))

    def blocks(self, uri: str, *, etag: str, offset: int = 0) -> Iterator[bytes]:
        if self.stat(uri).etag != etag:
            raise StoreUnavailable(f"{uri}: changed while it was read")
        yield self.objects[uri][offset:]

    def under(self, uri: str) -> list[str]:
        self._check(uri + "any")
        return [each for each in self.objects if each.startswith(uri)]

    def _check(self, uri: str) -> None:
        split_uri(uri)
        if not self.available:
            raise StoreUnavailable(f"{uri}: store is away")


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`. Raises ValueError for anything else."""
    bucket, key = _split(uri)
    if not key:
        raise ValueError(f"{uri!r} is not s3://bucket/key")
    return bucket, key


def _split(uri: str) -> tuple[str, str]:
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ValueError(f"{uri!r} is not s3://bucket/key")
    return bucket, key.lstrip("/")


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in {"NoSuchKey", "NoSuchBucket", "404"}:
            raise ObjectMissing(uri) from error
        raise StoreUnavailable(f"{uri}: {error}") from error
    except BotoCoreError as error:
        raise StoreUnavailable(f"{uri}: {error}") from error
