"""The store is made when it is needed."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from readmit_chassis.s3 import S3Store, StoreUnavailable
from readmit_inference.late_store import LateStore
from readmit_inference.settings import Settings


def test_an_outage_says_so(settings: Settings) -> None:
    with pytest.raises(StoreUnavailable):
        LateStore(settings.s3).get("s3://bucket/key")


def test_threads_that_open_it_at_once_get_the_same_store(settings: Settings) -> None:
    store, together = LateStore(settings.s3), Barrier(8)

    def opened(_: int) -> S3Store:
        together.wait()
        return store.open()

    with ThreadPoolExecutor(8) as pool:
        assert len({id(found) for found in pool.map(opened, range(8))}) == 1


def test_what_an_answer_does_not_need_is_imported_after_the_start() -> None:
    """Together these take longer than all the rest of a start."""
    script = (
        "import sys, readmit_inference.__main__;"
        "sys.exit(', '.join({'boto3', 'lightgbm', 'scipy', 'pandas', 'sklearn'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
