"""Whose process is this? A pid alone is reused; a pid with its start time is not."""

from __future__ import annotations

import subprocess
from pathlib import Path


def identity(pid: int) -> str | None:
    """Text that tells this process from any other that ever had its pid; None when it does not run."""
    if Path("/proc/self/stat").exists():
        try:
            # The command's name is in brackets and may hold spaces: fields are counted after it.
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if state == "Z" else f"{boot}:{fields[18]}"
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None


def is_ours(pid: int, recorded: str) -> bool:
    """Whether the process that was recorded still runs."""
    return identity(pid) == recorded
