"""The envelope of an event: CloudEvents 1.0 attributes as Kafka headers (binary content mode), and the W3C trace."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

from readmit_chassis.failures import BadMessage
from readmit_chassis.tracing import current_traceparent


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who said what about whom, when, and because of what."""

    id: UUID
    type: str
    source: str
    time: datetime
    subject: str
    traceparent: str

    def headers(self) -> dict[str, str]:
        """As Kafka headers."""
        return {
            "ce_specversion": "1.0",
            "ce_id": str(self.id),
            "ce_type": self.type,
            "ce_source": self.source,
            "ce_time": self.time.isoformat(),
            "ce_subject": self.subject,
            "ce_dataschema": f"urn:{self.type.replace('.', ':')}",
            "content-type": "application/json",
            "traceparent": self.traceparent,
        }

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Envelope:
        """Read the headers back. Raises `BadMessage` where one is missing or malformed."""
        try:
            return cls(
                id=UUID(headers["ce_id"]),
                type=headers["ce_type"],
                source=headers["ce_source"],
                time=datetime.fromisoformat(headers["ce_time"]),
                subject=headers.get("ce_subject", ""),
                traceparent=headers.get("traceparent") or _new_traceparent(None),
            )
        except (KeyError, ValueError) as error:
            raise BadMessage(f"not a CloudEvent: {type(error).__name__} {error}") from error


def new_envelope(event_type: str, *, source: str, subject: str, cause: Envelope | None = None) -> Envelope:
    """A fresh envelope that continues the trace of its cause, below the current span where that belongs to it."""
    return Envelope(
        id=uuid4(),
        type=event_type,
        source=source,
        time=datetime.now(UTC),
        subject=subject,
        traceparent=_following(cause.traceparent if cause else None),
    )


def _following(parent: str | None) -> str:
    """The current span if it is of the parent's trace, or if there is no parent; else the parent's trace goes on."""
    current = current_traceparent()
    if current is not None and (parent is None or current.split("-")[1] == parent.split("-")[1]):
        return current
    return _new_traceparent(parent)


def _new_traceparent(parent: str | None) -> str:
    """A W3C trace-context header: the parent's trace id, or a new one, and a new span id."""
    trace_id = parent.split("-")[1] if parent and parent.count("-") == 3 else secrets.token_hex(16)
    return f"00-{trace_id}-{secrets.token_hex(8)}-01"
