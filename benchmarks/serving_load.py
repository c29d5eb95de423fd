"""What benchmarks of serving share: a server process that is ready, and `wrk` posting one encounter to it."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from readmit_contracts.encounter import example_encounter


@dataclass(frozen=True)
class Load:
    """What `wrk` saw in one round."""

    requests_per_s: float
    p99_ms: float


def load_options(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """The options of every benchmark that loads a server. Ends with a hint where `wrk` is missing."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    parser = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--trees", type=int, default=200)
    return parser


def encounter_script(folder: Path) -> Path:
    """A script for `wrk` that posts one encounter as JSON."""
    script = folder / "post.lua"
    body = json.dumps(example_encounter())
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [==[{body}]==]\n'
    )
    return script


@contextmanager
def server(command: list[str], environment: dict[str, str], port: int) -> Iterator[str]:
    """One server process; yields its address once it is ready."""
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"{address}/readyz", timeout=2):  # noqa: S310  our own address
                        break
                except (urllib.error.URLError, ConnectionError):
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()


def load(address: str, script: Path, *, connections: int, seconds: float) -> Load:
    """Requests per second and 99th percentile, all answers being 200."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script)]
    said = subprocess.run([*command, f"{address}/predict"], check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"the server failed under load:\n{said}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    if rate is None or p99 is None:
        raise SystemExit(f"cannot read what wrk said:\n{said}")
    return Load(float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]])
