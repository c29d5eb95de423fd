"""A server's certificate, taken again when its files change: whoever renews it need not restart anything."""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

from readmit_chassis.settings import TlsSettings

log = structlog.get_logger()


class Certificate:
    """The certificate (chain) and its private key as PEM files."""

    def __init__(self, settings: TlsSettings) -> None:
        """Raises OSError (of which ssl.SSLError is one) where the files are no pair of certificate and key."""
        self._cert, self._key = settings.cert_file, settings.key_file
        self._seen = self._signature()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.load_cert_chain(self._cert, self._key)

    def renew(self) -> None:
        """Take the files' content for handshakes from now on, if it has changed and can be used."""
        try:
            seen = self._signature()
            if seen == self._seen:
                return
            self._seen = seen
            # Tried apart: a pair that does not match would leave the context with half of it.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key)
            self.context.load_cert_chain(self._cert, self._key)
        except OSError as error:
            log.error("certificate_refused", path=str(self._cert), error=type(error).__name__)  # noqa: TRY400  no bug
        else:
            log.info("certificate_renewed", path=str(self._cert))

    def _signature(self) -> tuple[tuple[int, int], ...]:
        return tuple(_stamp(path) for path in (self._cert, self._key))


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino
