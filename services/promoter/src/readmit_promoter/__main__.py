"""`python -m readmit_promoter`: read the environment, serve until stopped."""

from __future__ import annotations

import argparse
import sys

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
    """Run the service, or the command that makes keys for it."""
    parser = argparse.ArgumentParser(
        prog="python -m readmit_promoter",
        description="The promoter. Configured by PROMOTER_* variables; see README.md.",
    )
    add_keys_command(
        parser.add_subparsers(help="without one of these, the service runs"), SCOPES, variable="PROMOTER_API_KEYS_FILE"
    )
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


if __name__ == "__main__":
    main()
