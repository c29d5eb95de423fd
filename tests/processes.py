"""Programs that tests start, wait for and end."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from readmit_chassis.settings import KafkaSettings
from readmit_chassis.testing import embedded_kafka, free_port
from readmit_local.kafka import apache_part
from readmit_local.state import State

from .conftest import REQUIRED

ROOT = Path(__file__).parents[1]


def needs(program: str, *, required_as: str) -> str:
    """Path of a program; skips without it, unless READMIT_REQUIRE names it."""
    found = shutil.which(program)
    if found is None:
        if required_as in REQUIRED:
            pytest.fail(f"READMIT_REQUIRE names {required_as}, but {program} is not on PATH")
        pytest.skip(f"needs {program} on PATH")
    return found


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"no {what} after {timeout_s} s")
        time.sleep(0.05)


@contextmanager
def running(argv: list[Any], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes to a file; ended with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, **options)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=60)


@contextmanager
def kafka_cluster(kind: str, folder: Path) -> Iterator[KafkaSettings]:
    """A broker of a kind, `embedded` or `apache`, that keeps itself in the folder."""
    if kind == "embedded":
        with embedded_kafka() as address:
            yield KafkaSettings(bootstrap_servers=address, idempotent_producer=False)
        return
    for program in ("java", "mvn"):
        needs(program, required_as="apache-kafka")
    state = State(folder)
    state.prepare()
    port = free_port()
    part = apache_part(state, port, free_port())
    with running(list(part.argv), state.log_file(part.name), env=dict(part.env), cwd=part.cwd):
        wait_until(lambda: asyncio.run(part.ready()), "Apache Kafka")
        yield KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}")


def readmit(*arguments: Any, code: int = 0, env: Mapping[str, str] | None = None) -> str:
    """What the operator's command says; `env` is added to the environment."""
    done = subprocess.run(
        [sys.executable, "-m", "readmit_local", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120, env=os.environ | (env or {}),
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert code == 0 or len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stdout + done.stderr


def snippet(page: str, word: str) -> str:
    """The one block of YAML of a page of the documentation that has a word in it."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return str(found)


def make_secrets(folder: Path, *options: str) -> None:
    subprocess.run(
        [sys.executable, ROOT / "infra/secrets/generate.py", "--directory", folder, *options],
        check=True, capture_output=True,
    )  # fmt: skip
