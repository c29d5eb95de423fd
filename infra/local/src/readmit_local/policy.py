"""The policy that a stack's promoter is to judge by, looked at by the promoter itself before anything starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from readmit_local.errors import LocalError
from readmit_local.part import child_env

#: The service's own command: what a policy may say is the promoter's affair.
_CHECK = (sys.executable, "-m", "readmit_promoter", "policy")
_TIMEOUT_S = 60


def usable_policy(file: Path) -> Path:
    """The file's absolute path. Raises `LocalError` with what the promoter says of it, a line for each problem."""
    path = file.resolve()
    done = subprocess.run(
        [*_CHECK, str(path)], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, env=child_env({})
    )
    if done.returncode != 0:
        raise LocalError(done.stderr.strip())
    return path
