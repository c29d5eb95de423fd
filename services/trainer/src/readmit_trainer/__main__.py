"""`python -m readmit_trainer`."""

from __future__ import annotations

import argparse

from readmit_chassis.logs import configure_logging
from readmit_chassis.process import Process, run
from readmit_chassis.settings import load_settings
from readmit_trainer.app import make_app
from readmit_trainer.settings import Settings


def main() -> None:
    """Read the environment, serve until told to stop."""
    argparse.ArgumentParser(
        prog="python -m readmit_trainer", description="The trainer. Configured by TRAINER_* variables; see README.md."
    ).parse_args()
    configure_logging("trainer")
    settings = load_settings(Settings)
    process = Process()
    run(make_app(settings, process), host=settings.host, port=settings.port, process=process)


if __name__ == "__main__":
    main()
