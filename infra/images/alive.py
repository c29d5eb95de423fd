"""The health check inside our images: exit code 0 while the process in this container answers with 200.

alive.py PORT PATH [PREFIX_PORT]    the variable, when it is set, holds another port; PREFIX_TLS__CERT_FILE means https

For `python -IS`, which starts in a fraction of the time; no proxy, no redirect, nothing but the standard library.
"""

from __future__ import annotations

import http.client
import os
import sys


def main() -> int:
    """Entry point."""
    port, path, *variable = sys.argv[1:]
    asked: http.client.HTTPConnection
    if variable:
        port = os.environ.get(variable[0], port)
    if variable and os.environ.get(variable[0].removesuffix("PORT") + "TLS__CERT_FILE"):
        import ssl  # noqa: PLC0415  takes as long as all the rest

        # The certificate is of another name than this address, and who answers is this container.
        unverified = ssl._create_unverified_context()  # noqa: S323, SLF001
        asked = http.client.HTTPSConnection("127.0.0.1", int(port), timeout=2, context=unverified)
    else:
        asked = http.client.HTTPConnection("127.0.0.1", int(port), timeout=2)
    try:
        asked.request("GET", path)
        status = asked.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"alive: nothing answers on port {port}: {error}\n")
        return 1
    sys.stderr.write(f"alive: {path} answers {status}\n")
    return 0 if status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main())
