"""The command `readmit-airflow ROLE`: Airflow's process of that role, with its secrets read from files.

`readmit-airflow airflow ARGUMENTS` is Airflow's own command in the same environment, for the operator.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from readmit_airflow.environment import ROLES, Incomplete, airflow_environment, with_secret_files

#: Where Compose and Kubernetes mount secrets.
SECRETS_DIR = "/run/secrets"


def main() -> None:
    """Become the role's process; exit code 2 and a readable list when something is missing."""
    role, *rest = sys.argv[1:] or [""]
    if role != "airflow" and (role not in ROLES or rest):
        sys.exit(f"usage: readmit-airflow {{{'|'.join(ROLES)}}}, or readmit-airflow airflow ARGUMENTS")
    folder = Path(os.environ.get("READMIT_SECRETS_DIR", SECRETS_DIR))
    try:
        environment = airflow_environment(role, with_secret_files(os.environ, folder))
    except Incomplete as incomplete:
        print(f"{role} can't start; neither set nor a file in {folder}:", *incomplete.args, sep="\n  ", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    airflow = [sys.executable, "-m", "airflow"]
    if role == "airflow":
        os.execve(sys.executable, [*airflow, *rest], environment)  # noqa: S606  this process becomes Airflow's
    if role == "migrate":
        subprocess.run([*airflow, *ROLES[role]], env=environment, check=True)
        os.execve(sys.executable, [sys.executable, "-m", "readmit_airflow.admin"], environment)  # noqa: S606  as above
    os.execve(sys.executable, [*airflow, *ROLES[role]], environment)  # noqa: S606  as above
