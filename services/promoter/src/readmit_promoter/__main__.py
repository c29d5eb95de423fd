"""`python -m readmit_promoter`: read the environment, serve until stopped; or make keys, or check a policy."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from readmit_chassis.access.key_command import add_keys_command
from readmit_chassis.access.watched_file import Unusable
from readmit_chassis.logs import configure_logging
from readmit_chassis.process import Process, run
from readmit_chassis.settings import load_settings
from readmit_promoter.app import make_app
from readmit_promoter.errors import PolicyError
from readmit_promoter.policy import load_policy
from readmit_promoter.roles import SCOPES
from readmit_promoter.settings import Settings


def main() -> None:
    """Run the service, or one of its commands."""
    parser = argparse.ArgumentParser(
        prog="python -m readmit_promoter",
        description="The promoter. Configured by PROMOTER_* variables; see README.md.",
    )
    commands = parser.add_subparsers(help="without one of these, the service runs")
    add_keys_command(commands, SCOPES, variable="PROMOTER_API_KEYS_FILE")
    check = commands.add_parser("policy", help="say whether a policy file can be used, and what is wrong with it")
    check.add_argument("file", type=Path, help="YAML; one that can be used may be named in PROMOTER_POLICY_FILE")
    check.set_defaults(run=_check_policy)
    options = parser.parse_args()
    if "run" in options:
        sys.exit(options.run(options))
    configure_logging("promoter")
    settings = load_settings(Settings)
    process = Process()
    try:
        app = make_app(settings, load_policy(settings.policy_file), process)
    except (PolicyError, Unusable) as unusable:
        sys.stderr.write(f"The promoter does not start: {unusable}\n")
        sys.exit(2)
    run(app, host=settings.host, port=settings.port, process=process)


def _check_policy(options: argparse.Namespace) -> int:
    """Exit code: 0, or 2 with a line for each problem."""
    try:
        policy = load_policy(options.file)
    except PolicyError as unusable:
        sys.stderr.write(f"{unusable}\n")
        return 2
    sys.stdout.write(f"{options.file}: version {policy.version}, digest {policy.sha256}\n")
    return 0


if __name__ == "__main__":
    main()
