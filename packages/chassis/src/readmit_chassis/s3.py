"""An object store by URI: the S3 one, and a fake in memory that keeps the same contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from urllib.parse import urlsplit

from readmit_chassis.failures import Transient
from readmit_chassis.settings import S3Settings


class ObjectMissing(Exception):  # noqa: N818  named for what is the case
    """There is nothing at this URI."""


class StoreUnavailable(Transient):
    """The store cannot be reached or refuses everybody; later it may not."""


class ObjectStore(Protocol):
    """Whole objects by `s3://bucket/key`. Calls block: use `asyncio.to_thread` on an event loop."""

    def put(self, uri: str, data: bytes) -> None:
        """Write or overwrite. Raises `StoreUnavailable`."""

    def get(self, uri: str) -> bytes:
        """Read all of it. Raises `ObjectMissing`, `StoreUnavailable`."""

    def exists(self, uri: str) -> bool:
        """Whether there is an object. Raises `StoreUnavailable`."""


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

    def _check(self, uri: str) -> None:
        split_uri(uri)
        if not self.available:
            raise StoreUnavailable(f"{uri}: store is away")


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`. Raises ValueError for anything else."""
    parts = urlsplit(uri)
    key = parts.path.lstrip("/")
    if parts.scheme != "s3" or not parts.netloc or not key:
        raise ValueError(f"{uri!r} is not s3://bucket/key")
    return parts.netloc, key


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
