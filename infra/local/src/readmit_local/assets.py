"""Files of `infra/` that are needed at run time: one copy, beside this package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path


def asset(relative: str) -> Path:
    """Path of `infra/<relative>`."""
    package = Path(__file__).resolve().parent
    inside = package / "infra" / relative
    return inside if inside.exists() else package.parents[2] / relative
