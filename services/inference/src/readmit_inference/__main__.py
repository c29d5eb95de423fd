"""`python -m readmit_inference`: configuration from the environment, then serve until SIGTERM."""

from __future__ import annotations

import argparse
import gc
import sys

from readmit_chassis.logs import configure_logging
from readmit_chassis.process import Process, run
from readmit_chassis.settings import load_settings
from readmit_inference.app import make_app
from readmit_inference.late_store import LateStore
from readmit_inference.settings import Settings

#: How long the event loop waits for the interpreter while another thread loads a model: Python's own 5 ms are the time
#: of many requests.
_SWITCH_S = 0.0005


def main() -> None:
    """Run the service."""
    argparse.ArgumentParser(prog="python -m readmit_inference", description=__doc__).parse_args()
    configure_logging("inference")
    settings = load_settings(Settings)
    process = Process()
    sys.setswitchinterval(_SWITCH_S)
    store = LateStore(settings.s3)
    # What stays for good is left out of garbage collection, which would stop every request for 80 ms now and then.
    # What loads leave in the interpreter's free lists, some KiB each up to some MiB, goes by a full collection alone;
    # without what stays for good, it takes 0.2 ms.
    app = make_app(settings, store.get, process, warm_up=store.open, on_warm=gc.freeze, tidy=gc.collect)
    run(app, host=settings.host, port=settings.port, process=process)


if __name__ == "__main__":
    main()
