"""`readmit predict-batch`: a file of encounters to the running model, and its answers as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from readmit_local.errors import LocalError

#: Content type by the ending of a file.
MEDIA_TYPES: Mapping[str, str] = {
    ".csv": "text/csv",
    ".ndjson": "application/x-ndjson",
    ".jsonl": "application/x-ndjson",
    ".json": "application/json",
}
_PIECE_BYTES = 64 * 1024


def predict_batch(url: str, headers: Mapping[str, str], path: Path, answers: BinaryIO) -> None:
    """Send the file to one pod, and write what it answers. Raises `LocalError`, and OSError from `answers`."""
    media_type = MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None:
        raise LocalError(f"{path}: don't know what this is; name it {', '.join(MEDIA_TYPES)}")
    try:
        file = path.open("rb")
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror}; give a file of encounters") from error
    try:
        with file, _progress() as progress:
            task = progress.add_task(path.name, total=path.stat().st_size)
            body = _pieces(file, lambda sent: progress.advance(task, sent))
            told = {"content-type": media_type, **headers}
            # Never through a proxy: everything is on this machine.
            with httpx.Client(trust_env=False, timeout=120) as client, client.stream(
                "POST", f"{url}/predict/batch", content=body, headers=told
            ) as answer:  # fmt: skip
                if answer.status_code != httpx.codes.OK:
                    detail = answer.read().decode(errors="replace")
                    raise LocalError(f"{path}: refused with {answer.status_code}: {detail}")
                answers.writelines(answer.iter_bytes())
    except httpx.HTTPError as error:
        raise LocalError(f"inference at {url} does not answer ({error!r}); see `readmit logs inference`") from error


def _progress() -> Progress:
    # On standard error: the answers may go to standard output.
    console = Console(stderr=True)
    return Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} % sent"),
                    TimeElapsedColumn(), console=console)  # fmt: skip


def _pieces(file: BinaryIO, sent: Callable[[int], None]) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece
        sent(len(piece))
