"""The end of a growing file."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path


def tail(path: Path, lines: int, *, follow: bool, pause_s: float = 0.2) -> Iterator[str]:
    """The last lines of a file and, when following, every later one as it comes; does not return then."""
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from deque(file, maxlen=lines)
        while follow:
            if line := file.readline():
                yield line
            else:
                time.sleep(pause_s)
