"""What can be wrong with a source. Each is the requester's to mend, so it ends the ingestion and not the process."""

from __future__ import annotations

from typing import Literal

Code = Literal[
    "source_not_found",
    "source_unreachable",
    "source_http_error",
    "source_not_data",
    "source_bad_header",
    "source_bad_archive",
    "source_empty",
    "source_too_large",
    "source_checksum_mismatch",
    "too_many_bad_rows",
    "nothing_to_replay",
    "gave_up",
]


class SourceFault(Exception):  # noqa: N818  a fault of the source, not an error of ours
    """The source as a whole cannot be ingested. `message` names the thing and the next step, in one line."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
