"""One form for every document: the same content is the same bytes, on any machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any

Document = dict[str, Any]


def canonical(document: Document) -> bytes:
    """JSON with sorted keys and no spaces, UTF-8. Raises ValueError for a number that is not finite."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(document: Document) -> str:
    """SHA-256 of the canonical form, in hex."""
    return hashlib.sha256(canonical(document)).hexdigest()
