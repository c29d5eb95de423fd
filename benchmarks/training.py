"""From batch to candidate: how much of the time is fitting, and what it takes in memory.

    python benchmarks/training.py --source diabetes-130-us-hospitals.zip [--window N] [--families lightgbm] [--cores 2]

Starts the whole platform (`readmit up`) in a folder of its own, waits until all fits of all batches are done, and
reads the trainer's own job list. The ceiling of "time in fits" is 1: a trainer that does nothing but fit. A job's
wall time is from its lease to the transaction that holds `model.registered`; reading, encoding, validation, export,
upload and MLflow are all in it. Memory is the peak resident size of the fitting process after each batch. `TRAINER_…`
variables reach the trainer as usual.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx


def jobs_of(state: Path) -> list[dict[str, Any]]:
    """The trainer's jobs; none while it is not there yet."""
    try:
        url = json.loads((state / "stack.json").read_text())["urls"]["trainer"]
        found: list[dict[str, Any]] = httpx.get(f"{url}/jobs", timeout=10).json()["jobs"]
    except (httpx.HTTPError, FileNotFoundError, KeyError):
        return []
    return found


def batches_of(state: Path) -> int:
    """How many batches the newest dataset has."""
    url = json.loads((state / "stack.json").read_text())["urls"]["ingestor"]
    return int(httpx.get(f"{url}/datasets", timeout=10).json()["datasets"][-1]["batches_total"])


def fitting_peak_mib() -> float:
    """Peak resident memory of the largest fitting process on this machine."""
    peaks = [0.0]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if b"multiprocessing.spawn" in command and b"readmit" not in command:
                status = (process / "status").read_text()
                peaks.append(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        except (OSError, IndexError, ValueError):
            continue
    return max(peaks)


def seconds(job: dict[str, Any]) -> float:
    """From lease to registration."""
    started, finished = (datetime.fromisoformat(job[key]) for key in ("started_at", "finished_at"))
    return (finished - started).total_seconds()


def table(jobs: list[dict[str, Any]], memory: dict[int, float], took_s: float) -> str:
    """What was measured, as Markdown."""
    lines = [
        "| batch | fits (s) | wall (s) | in fits | peak MiB | validation AUROC |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for batch in sorted({job["batch"] for job in jobs}):
        mine = [job for job in jobs if job["batch"] == batch]
        fits, wall = sum(job["fit_seconds"] for job in mine), sum(map(seconds, mine))
        areas = ", ".join(f"{job['family'].replace('_', ' ')} {job['auroc']:.3f}" for job in mine)
        lines.append(
            f"| {batch} | {fits:.1f} | {wall:.1f} | {fits / wall:.0%} | {memory.get(batch, 0):.0f} | {areas} |"
        )
    fits, wall = sum(job["fit_seconds"] for job in jobs), sum(map(seconds, jobs))
    lines.append(
        f"| all | {fits:.1f} | {wall:.1f} | {fits / wall:.0%} | | from the first lease to the last: {took_s:.0f} s |"
    )
    return "\n".join(lines)


def main() -> None:
    """Run once, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="what to ingest: a file, an URL or sample:ROWS")
    parser.add_argument("--window", type=int, help="TRAINER_WINDOW_BATCHES: train on the last so many batches")
    parser.add_argument("--families", nargs="*", default=[], help="TRAINER_FAMILIES; all three unless told")
    parser.add_argument("--cores", type=int, default=2, help="TRAINER_THREADS")
    options = parser.parse_args()
    environment = os.environ | {"TRAINER_THREADS": str(options.cores)}
    if options.families:
        environment["TRAINER_FAMILIES"] = json.dumps(options.families)
    families = len(options.families) or 3
    if options.window is not None:
        environment["TRAINER_WINDOW_BATCHES"] = str(options.window)
    with tempfile.TemporaryDirectory(prefix="readmit-training-") as folder:
        Path(folder).chmod(0o755)  # as root, the database runs as another user
        state = Path(folder) / "state"
        command = [sys.executable, "-m", "readmit_local", "up", "--source", options.source, "--state-dir", str(state),
                   "--ports", "free", "--pods", "1"]  # fmt: skip
        with (Path(folder) / "output.txt").open("wb") as output:
            platform = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        memory: dict[int, float] = {}
        try:
            jobs: list[dict[str, Any]] = []
            while not jobs or len(jobs) < families * batches_of(state) or any(job["status"] != "done" for job in jobs):
                if platform.poll() is not None or any(job["status"] == "failed" for job in jobs):
                    sys.exit("the platform ended or a fit failed; look at its output:\n" + output_of(folder))
                time.sleep(0.5)
                jobs = jobs_of(state)
                done = [job["batch"] for job in jobs if job["status"] == "done"]
                for batch in range(1, max(done, default=0) + 1):
                    if done.count(batch) == families:
                        memory.setdefault(batch, fitting_peak_mib())
        finally:
            platform.send_signal(signal.SIGINT)
            platform.wait(timeout=90)
    begun = min(datetime.fromisoformat(job["started_at"]) for job in jobs)
    ended = max(datetime.fromisoformat(job["finished_at"]) for job in jobs)
    print(table(jobs, memory, (ended - begun).total_seconds()))


def output_of(folder: str) -> str:
    """The last that the platform said."""
    return "\n".join((Path(folder) / "output.txt").read_text(errors="replace").splitlines()[-20:])


if __name__ == "__main__":
    main()
