"""A bundle as bytes: two files and one digest that covers every byte of both.

Nothing here parses what it reads before the digest has been verified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from readmit_bundle.errors import BundleRefused
from readmit_bundle.manifest import Manifest
from readmit_contracts.events import ArtifactRef

MANIFEST_FILE = "bundle.json"
MODEL_FILE = "model.txt"
FILES = (MANIFEST_FILE, MODEL_FILE)
MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bundle:
    """The files of one bundle, by name."""

    files: Mapping[str, bytes]

    @property
    def sha256(self) -> str:
        """Digest of the sorted listing of names and the digests of their bytes."""
        listing = "".join(f"{digest(self.files[name])}  {name}\n" for name in sorted(self.files))
        return digest(listing.encode())

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.files.values()))


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def pack(manifest: Manifest, model: bytes) -> Bundle:
    """The bundle of a manifest and its model file."""
    text = manifest.model_dump_json(indent=1)
    return Bundle({MANIFEST_FILE: text.encode(), MODEL_FILE: model})


def write_bundle(put: Callable[[str, bytes], object], root: str, bundle: Bundle) -> ArtifactRef:
    """Write the files below `root/<digest>/` with `put(uri, data)`; what the events carry comes back."""
    uri = f"{root.rstrip('/')}/{bundle.sha256}"
    for name, data in bundle.files.items():
        put(f"{uri}/{name}", data)
    return ArtifactRef(uri=uri, sha256=bundle.sha256, size_bytes=bundle.size_bytes)


def read_bundle(get: Callable[[str], bytes], ref: ArtifactRef) -> Bundle:
    """Read with `get(uri)` what `ref` points at; BundleRefused unless size and digest are the announced ones.

    Whatever `get` raises (missing object, store away) passes through.
    """
    if ref.size_bytes > MAX_BYTES:
        raise BundleRefused(f"{ref.size_bytes} bytes announced, at most {MAX_BYTES} are read")
    bundle = Bundle({name: get(f"{ref.uri.rstrip('/')}/{name}") for name in FILES})
    if bundle.size_bytes != ref.size_bytes:
        raise BundleRefused(f"{bundle.size_bytes} bytes found, {ref.size_bytes} announced")
    if bundle.sha256 != ref.sha256:
        raise BundleRefused(f"digest {bundle.sha256} found, {ref.sha256} announced")
    return bundle
