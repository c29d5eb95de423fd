"""What the terminal shows: one line per thing that happened and, where it is a terminal, live bars below."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from readmit_local.client import Ingestion
from readmit_local.loop import Loop


class Progress:
    """Lines with the seconds since the start. Not a terminal: lines only."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._began

    def clear(self) -> None:
        """End the live part; lines still come."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """Something happened."""
        stamped = Text.assemble((f"{self.elapsed_s:7.1f} s  ", "dim"), line)
        self.console.print(stamped, soft_wrap=True)

    def notice(self, text: str) -> None:
        """Something that nobody may overlook."""
        self.console.print(Panel(Text(text, style="bold"), border_style="yellow", title="NOTICE"))

    def show(self, loop: Loop) -> None:
        """Bring the bars up to date."""
        if self._live is not None:
            self._live.update(render(loop))

    def show_ingestion(self, ingestion: Ingestion) -> None:
        """Bring the bars of an ingestion alone up to date."""
        if self._live is not None:
            table = Table.grid(padding=(0, 2))
            _add_ingestion(table, ingestion)
            self._live.update(Group(table, Text(ingestion.stage or ingestion.status, style="dim")))


def _add_ingestion(table: Table, ingestion: Ingestion) -> None:
    if ingestion.bytes_total:
        what = "download" if ingestion.stage == "downloading" else "read"
        _row(table, what, ingestion.bytes_done or 0, ingestion.bytes_total, unit="bytes")
    _row(table, "rows validated", ingestion.rows_read or 0, ingestion.rows_total)
    _row(table, "batches written", ingestion.batches_written or 0, None)


def render(loop: Loop) -> RenderableType:
    """The loop as bars."""
    table = Table.grid(padding=(0, 2))
    ingestion = loop.ingestion
    if ingestion is not None and not ingestion.ended:
        _add_ingestion(table, ingestion)
    elif loop.dataset is not None:
        _row(table, "fits done", loop.fits_ended, loop.fits_total)
        _row(table, "candidates judged", len(loop.decisions), loop.fits_total)
    running = ", ".join(f"{job.family} on 1..{job.batch}" for job in loop.jobs if job.status == "running")
    serving = ", ".join(f"{pod.pod_id}: {pod.model.family} v{pod.model.version}" for pod in loop.pods)
    status = "; ".join(part for part in (running and f"fitting {running}", serving and f"serving {serving}") if part)
    return Group(table, Text(status, style="dim")) if status or table.rows else Spinner("dots", "working")


def _row(table: Table, label: str, done: int, total: int | None, unit: str = "") -> None:
    bar = ProgressBar(total=total, completed=done, width=30, pulse=total is None)
    table.add_row(label, bar, f"{done:,}" + (f" of {total:,}" if total else "") + (f" {unit}" if unit else ""))
