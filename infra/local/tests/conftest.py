"""What the tests of the local stack share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from readmit_local.state import State


@pytest.fixture
def state() -> Iterator[State]:
    """An empty state. Not in pytest's own directory, which is closed to the user that PostgreSQL runs as."""
    folder = Path(tempfile.mkdtemp(prefix="readmit-state-"))
    state = State(folder / "state")
    state.prepare()
    yield state
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def required() -> frozenset[str]:
    """What must be tested here, not skipped: the environment says so where everything is installed."""
    return frozenset(os.environ.get("READMIT_REQUIRE", "").split(",")) - {""}
