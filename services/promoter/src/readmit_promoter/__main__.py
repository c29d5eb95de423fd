"""`python -m readmit_promoter`: read the environment, serve until stopped."""

from __future__ import annotations

import argparse
import sys

from readmit_chassis.logs import configure_logging
from readmit_chassis.process import Process, run
from readmit_chassis.settings import load_settings
from readmit_promoter.app import make_app
from readmit_promoter.errors import PolicyError
from readmit_promoter.settings import Settings


def main() -> None:
    """Entry point."""
    argparse.ArgumentParser(
        prog="python -m readmit_promoter",
        description="The promoter. Configured by PROMOTER_* variables; see README.md.",
    ).parse_args()
    configure_logging("promoter")
    settings = load_settings(Settings)
    process = Process()
    try:
        app = make_app(settings, process)
    except PolicyError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(2)
    run(app, host=settings.host, port=settings.port, process=process)


if __name__ == "__main__":
    main()
