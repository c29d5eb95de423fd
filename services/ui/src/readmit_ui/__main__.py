"""`python -m readmit_ui`: configuration from the environment, then serve until SIGTERM."""

from __future__ import annotations

import argparse

from readmit_chassis.logs import configure_logging
from readmit_chassis.process import Process, run
from readmit_chassis.settings import load_settings
from readmit_ui.app import make_app
from readmit_ui.settings import Settings


def main() -> None:
    """Run the service."""
    argparse.ArgumentParser(prog="python -m readmit_ui", description=__doc__).parse_args()
    configure_logging("ui")
    settings = load_settings(Settings)
    run(make_app(settings), host=settings.host, port=settings.port, process=Process())


if __name__ == "__main__":
    main()
