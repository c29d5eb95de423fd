"""`python -m readmit_ingestor`: read the environment, serve until stopped."""

from __future__ import annotations

import argparse

from readmit_chassis.logs import configure_logging
from readmit_chassis.process import Process, run
from readmit_chassis.settings import load_settings
from readmit_chassis.tracing import configure_tracing
from readmit_ingestor.app import make_app
from readmit_ingestor.settings import Settings


def main() -> None:
    """Entry point."""
    argparse.ArgumentParser(
        prog="python -m readmit_ingestor",
        description="The ingestor. Configured by INGESTOR_* variables; see README.md.",
    ).parse_args()
    configure_logging("ingestor")
    configure_tracing("ingestor")
    settings = load_settings(Settings)
    process = Process()
    run(make_app(settings, process), host=settings.host, port=settings.port, process=process)


if __name__ == "__main__":
    main()
