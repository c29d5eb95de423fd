"""Secrets as files, as Compose and Kubernetes mount them."""

from __future__ import annotations

from pathlib import Path

from readmit_local.errors import LocalError


def secret_file(folder: Path, name: str) -> str:
    """The text of one secret without its last line break. Raises `LocalError` when it is missing or empty."""
    try:
        secret = (folder / name).read_text(encoding="utf-8").removesuffix("\n")
    except OSError as error:
        raise LocalError(f"secret {name}: {folder / name}: {error.strerror}; `make secrets` makes them") from error
    if not secret:
        raise LocalError(f"secret {name}: {folder / name} is empty")
    return secret
