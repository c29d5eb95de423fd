"""Which code and which libraries made a model."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable

_PACKAGES = ("readmit_contracts", "readmit_features", "readmit_bundle", "readmit_trainer")
_LIBRARIES = ("lightgbm", "numpy", "pandas", "scikit-learn")


@cache
def code_version() -> str:
    """Digest of all code that shapes a model; any change to it makes a job a new one."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for name, text in sorted(_sources(resources.files(package), package)):
            digest.update(f"{name}\0".encode() + text + b"\0")
    return digest.hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """The libraries that a fit depends on."""
    return {name: metadata.version(name) for name in _LIBRARIES}


def _sources(folder: Traversable, path: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        name = f"{path}/{entry.name}"
        if entry.is_dir():
            found += _sources(entry, name)
        elif name.endswith(".py"):
            found.append((name, entry.read_bytes()))
    return found
