"""`python -m readmit_inference`: configuration from the environment, then serve until SIGTERM."""

from __future__ import annotations

import argparse
import gc
import sys

from readmit_chassis.access.key_command import add_keys_command
from readmit_chassis.access.watched_file import Unusable
from readmit_chassis.logs import configure_logging
from readmit_chassis.process import Process, run
from readmit_chassis.settings import load_settings
from readmit_inference.access.scopes import SCOPES
from readmit_inference.app import make_app
from readmit_inference.late_store import LateStore
from readmit_inference.settings import Settings

#: How long the event loop waits for the interpreter while another thread loads a model: Python's own 5 ms are the time
#: of many requests.
_SWITCH_S = 0.0005


def main() -> None:
    """Run the service, or the command that makes keys for it."""
    parser = argparse.ArgumentParser(prog="python -m readmit_inference", description=__doc__)
    add_keys_command(
        parser.add_subparsers(help="without one of these, the service runs"), SCOPES, variable="INFERENCE_API_KEYS_FILE"
    )
    options = parser.parse_args()
    if "run" in options:
        sys.exit(options.run(options))
    configure_logging("inference")
    settings = load_settings(Settings)
    process = Process()
    sys.setswitchinterval(_SWITCH_S)
    store = LateStore(settings.s3)
    try:
        # What stays for good is left out of garbage collection, which would stop every request for 80 ms now and then.
        # What loads leave in the interpreter's free lists, some KiB each up to some MiB, goes by a full collection
        # alone; without what stays for good, it takes 0.2 ms.
        app = make_app(settings, store.get, process, warm_up=store.open, on_warm=gc.freeze, tidy=gc.collect)
    except Unusable as unusable:
        sys.stderr.write(f"What says who may ask can't be used: {unusable}\n")
        sys.exit(2)
    run(
        app,
        host=settings.host,
        port=settings.port,
        process=process,
        tls=settings.tls,
        posts_at_once=app.state.posts_at_once,
    )


if __name__ == "__main__":
    main()
