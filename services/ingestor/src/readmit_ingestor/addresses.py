"""What a source is called: the checksum behind an address, and how an address is shown without its secrets."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from readmit_ingestor.errors import SourceFault

_CHECKSUM = re.compile(r"#sha256=([^#]*)$")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


def split_checksum(source: str) -> tuple[str, str | None]:
    """The address without `#sha256=HEX`, and the digest in lower case. Raises `SourceFault` for what is no digest."""
    match = _CHECKSUM.search(source)
    if match is None:
        return source, None
    if not _DIGEST.fullmatch(match[1]):
        raise SourceFault(
            "source_checksum_mismatch", f"{shown(source)}: what follows #sha256= has to be 64 hexadecimal digits"
        )
    return source[: match.start()], match[1].lower()


def shown(source: str) -> str:
    """The source for messages, logs and events: no user, no password, no query, where signatures and tokens stand."""
    if "://" not in source:
        return source
    try:
        parts = urlsplit(source)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return source.partition("://")[0] + "://…"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
