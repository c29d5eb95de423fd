"""Hooks for Schemathesis: the texts that it makes for NDJSON and CSV are sent as they are."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson", "text/csv")
def as_text(_: Any, value: Any) -> bytes:
    """Whatever is no text is sent as its words."""
    return str(value).encode("utf-8", "surrogatepass")
