"""The benchmarks start: what they import is there, and they say how to use them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_says_how_to_use_it(script: Path) -> None:
    told = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
    assert "usage: " in told.stdout


def test_every_peer_has_a_lock_that_requirements_compile_refreshes() -> None:
    """Each package that the script names is a lock, and a word of the loop that makes the locks."""
    script = (ROOT / "benchmarks" / "serving_peers.py").read_text()
    compiled = (ROOT / "requirements" / "compile").read_text()
    [peers] = re.findall(r"^for peer in (.+); do$", compiled, re.MULTILINE)
    for peer in peers.split():
        assert f'"{peer}"' in script, peer
        assert "--hash=sha256:" in (ROOT / "requirements" / f"peers-{peer}.txt").read_text()
