"""`python -m readmit_monitor`: read the environment, serve until stopped."""

from __future__ import annotations

import argparse

from readmit_chassis.logs import configure_logging
from readmit_chassis.process import Process, run
from readmit_chassis.settings import load_settings
from readmit_monitor.app import make_app
from readmit_monitor.settings import Settings


def main() -> None:
    """Entry point."""
    argparse.ArgumentParser(
        prog="python -m readmit_monitor",
        description="The monitor. Configured by MONITOR_* variables; see README.md.",
    ).parse_args()
    configure_logging("monitor")
    settings = load_settings(Settings)
    process = Process()
    run(make_app(settings, process), host=settings.host, port=settings.port, process=process)


if __name__ == "__main__":
    main()
