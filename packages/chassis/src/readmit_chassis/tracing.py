"""Traces: what a process does because of an event, as spans of that event's own trace (W3C trace context).

Off unless the standard variable OTEL_EXPORTER_OTLP_ENDPOINT names a collector; with it, spans go there over HTTP, in
batches, from a thread of their own: a collector that is away costs nothing but the spans. Attributes are counts,
versions and names of stages, never a field of a patient.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_tracer = trace.get_tracer("readmit")
_context = TraceContextTextMapPropagator()


def configure_tracing(service: str) -> None:
    """Send spans to the collector that the environment names, if it names one. Once per process, at its start.

    Needs the extra `tracing`. What is not sent yet is sent when the process ends.
    """
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  an extra
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


@contextmanager
def span(name: str, traceparent: str | None = None, **attributes: str | int | float | bool) -> Iterator[trace.Span]:
    """A span around the block, below the one that `traceparent` names, or below the current one.

    Logs of the block carry `trace_id`, whether spans are sent or not. An exception marks the span as failed, by its
    type alone: its text may hold values.
    """
    parent = _context.extract({"traceparent": traceparent}) if traceparent else None
    with (
        _tracer.start_as_current_span(
            name, parent, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as current,
        structlog.contextvars.bound_contextvars(**_trace_id(current)),
    ):
        try:
            yield current
        except BaseException as error:
            current.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
            raise


def current_traceparent() -> str | None:
    """The current span, for the envelope of what follows from it; None outside of any."""
    carrier: dict[str, str] = {}
    _context.inject(carrier)
    return carrier.get("traceparent")


def _trace_id(current: trace.Span) -> dict[str, str]:
    context = current.get_span_context()
    return {"trace_id": trace.format_trace_id(context.trace_id)} if context.is_valid else {}
