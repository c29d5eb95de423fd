"""What can be wrong with a source. Each is the requester's to mend, so it ends the ingestion and not the process."""

from __future__ import annotations

from typing import Literal

Code = Literal[
    "source_not_found",
    "source_unreachable",
    "source_http_error",
    "source_not_kept",
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

_LONGEST_MESSAGE = 500


class SourceFault(Exception):  # noqa: N818  a fault of the source, not an error of ours
    """The source as a whole cannot be ingested. `message` names the thing and the next step, in one line.

    Names in it come from outside, so it is made one line of printable text, with its middle left out if it is long.
    """

    def __init__(self, code: Code, message: str) -> None:
        message = one_line(message)
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[: _LONGEST_MESSAGE // 2]}…{message[1 - _LONGEST_MESSAGE // 2 :]}"
        super().__init__(message)
        self.code = code
        self.message = message


def one_line(text: str) -> str:
    """The text with everything escaped that breaks a line, steers a terminal or cannot be stored as UTF-8."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
