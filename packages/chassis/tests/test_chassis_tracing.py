"""Spans continue the trace of the event that caused them, reach a collector, and never get into anybody's way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from readmit_chassis.envelope import new_envelope
from readmit_chassis.tracing import current_traceparent, span

_PROGRAM = """
import sys
from readmit_chassis.envelope import new_envelope
from readmit_chassis.tracing import configure_tracing, span
configure_tracing("probe")
cause = new_envelope("asked", source="test", subject="x")
with span("outer", cause.traceparent, rows=3):
    with span("inner"):
        following = new_envelope("done", source="probe", subject="x", cause=cause)
    try:
        with span("failing"):
            raise ValueError("Mr Secret")
    except ValueError:
        pass
print(cause.traceparent, following.traceparent)
"""


class Collector(BaseHTTPRequestHandler):
    """Takes OTLP over HTTP."""

    received: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    handler = type("Handler", (Collector,), {"received": []})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", handler.received
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def run(endpoint: str) -> tuple[str, str]:
    """Trace parents of the cause and of what followed."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True, timeout=60,
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"},
    )  # fmt: skip
    cause, following = done.stdout.split()
    return cause, following


def test_spans_reach_the_collector_below_their_cause_and_what_follows_is_below_them(
    collector: tuple[str, list[ExportTraceServiceRequest]],
) -> None:
    endpoint, received = collector
    cause, following = run(endpoint)
    spans = {
        each.name: each for request in received for group in request.resource_spans for scope in group.scope_spans
        for each in scope.spans
    }  # fmt: skip
    assert set(spans) == {"outer", "inner", "failing"}
    _, trace_id, span_id, _ = cause.split("-")
    assert {each.trace_id.hex() for each in spans.values()} == {trace_id}
    assert spans["outer"].parent_span_id.hex() == span_id
    assert spans["inner"].parent_span_id == spans["outer"].span_id
    assert following.split("-")[1:3] == [trace_id, spans["inner"].span_id.hex()]
    assert {each.key: each.value.int_value for each in spans["outer"].attributes} == {"rows": 3}
    assert "Secret" not in str(received)
    assert spans["failing"].status.message == "ValueError"


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:1"])
def test_without_a_collector_the_trace_goes_on_all_the_same(endpoint: str) -> None:
    cause, following = run(endpoint)
    assert following.split("-")[1] == cause.split("-")[1]


def test_logs_carry_the_trace_of_the_cause_with_tracing_off() -> None:
    cause = new_envelope("asked", source="test", subject="x")
    with span("work", cause.traceparent):
        assert structlog.contextvars.get_contextvars()["trace_id"] == cause.traceparent.split("-")[1]
        assert (current_traceparent() or "").split("-")[1] == cause.traceparent.split("-")[1]
    assert "trace_id" not in structlog.contextvars.get_contextvars()
    assert current_traceparent() is None


def test_a_trace_parent_that_is_none_starts_no_trouble() -> None:
    with span("work", "not a traceparent"):
        assert new_envelope("done", source="x", subject="x").traceparent.startswith("00-")
