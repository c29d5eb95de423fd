"""What can be ingested: `uci`, `sample[:ROWS]`, an http(s) or s3 URL, a file or a folder."""

from __future__ import annotations

import re
from pathlib import Path

from readmit_local.errors import LocalError


def resolve_source(text: str) -> str:
    """The source as the ingestor takes it: paths absolute, and known to be there.

    Raises ValueError when the text is no source at all, `LocalError` when it names a file that cannot be read.
    """
    if text == "uci" or text.startswith(("http://", "https://", "s3://")):
        return text
    if re.match(r"sample(:|$)", text):
        if not re.fullmatch(r"sample(:[1-9][0-9]*)?", text):
            raise ValueError(f"{text!r} is not a sample: write `sample` or `sample:ROWS`, e.g. sample:20000")
        return text
    if "://" in text:
        raise ValueError(f"{text!r}: only http://, https:// and s3:// URLs can be ingested")
    name, checksum, digest = text.partition("#sha256=")
    path = Path(name).expanduser().resolve()
    if path.is_dir():
        return str(path) + checksum + digest
    if not path.is_file():
        raise LocalError(f"source {text}: no such file; give a file, a folder, an http(s) or s3 URL, `uci` or `sample`")
    try:
        path.open("rb").close()
    except OSError as error:
        raise LocalError(f"source {text}: cannot be read ({error.strerror}); check its permissions") from error
    return str(path) + checksum + digest
