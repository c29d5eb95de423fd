"""Answers as bytes: NDJSON, one JSON object, or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

import orjson

from readmit_inference.batch.scoring import RowAnswer, RowRefusal
from readmit_inference.domain import Serving
from readmit_inference.errors import InvalidEncounter, PredictionRefused

Answer = RowAnswer | RowRefusal


class Writer(Protocol):
    """Writes one response in pieces."""

    def start(self, serving: Serving) -> bytes: ...

    def rows(self, answers: Iterable[Answer]) -> bytes: ...

    def end(self, refused: PredictionRefused | None) -> bytes:
        """`refused`: why the batch was not read to its end."""
        ...


class NdjsonWriter:
    """A line per row; a line without `row` says why it ended early."""

    def start(self, _: Serving) -> bytes:
        return b""

    def rows(self, answers: Iterable[Answer]) -> bytes:
        return b"".join([_json(answer) + b"\n" for answer in answers])

    def end(self, refused: PredictionRefused | None) -> bytes:
        return b"" if refused is None else orjson.dumps({"error": _told(refused)}) + b"\n"


class JsonWriter:
    """One object: `model`, `threshold`, `predictions`, and at last `error`, null where all was read."""

    def __init__(self) -> None:
        self._separator = b"\n"

    def start(self, serving: Serving) -> bytes:
        threshold = orjson.dumps(serving.model.threshold)
        return b'{"model":' + orjson.dumps(serving.named_json) + b',"threshold":' + threshold + b',"predictions":['

    def rows(self, answers: Iterable[Answer]) -> bytes:
        written = b",\n".join(map(_json, answers))
        if not written:
            return b""
        piece, self._separator = self._separator + written, b",\n"
        return piece

    def end(self, refused: PredictionRefused | None) -> bytes:
        return b'],"error":' + orjson.dumps(None if refused is None else _told(refused)) + b"}\n"


class CsvWriter:
    """A line per row after one of names; a refused row has no risk, and `remarks` says why."""

    def start(self, _: Serving) -> bytes:
        return b"row,risk,readmitted_within_30_days,used_history,prediction_id,remarks\r\n"

    def rows(self, answers: Iterable[Answer]) -> bytes:
        return "".join(map(_line, answers)).encode()

    def end(self, refused: PredictionRefused | None) -> bytes:
        if refused is None:
            return b""
        return _quoted(("", "", "", "", "", refused.detail)).encode()


def _json(answer: Answer) -> bytes:
    if isinstance(answer, RowRefusal):
        return orjson.dumps({"row": answer.row, "error": _told(answer.refused)})
    written: dict[str, object] = {
        "row": answer.row,
        "risk": answer.risk,
        "readmitted_within_30_days": answer.readmitted_within_30_days,
        "used_history": answer.used_history,
        "warnings": [warning.model_dump() for warning in answer.warnings],
    }
    if answer.prediction_id is not None:
        written["prediction_id"] = answer.prediction_id
    return orjson.dumps(written)


def _told(refused: PredictionRefused) -> dict[str, object]:
    fields = refused.errors if isinstance(refused, InvalidEncounter) else []
    return {"code": refused.code, "detail": refused.detail, "errors": [error.model_dump() for error in fields]}


def _line(answer: Answer) -> str:
    if isinstance(answer, RowRefusal):
        return _quoted((answer.row, "", "", "", "", _in_words(answer.refused)))
    row, risk, is_readmitted, used_history, warnings, prediction_id = answer
    verdict, history = "true" if is_readmitted else "false", "true" if used_history else "false"
    told = f"{row},{risk!r},{verdict},{history},{prediction_id or ''},"
    if not warnings:
        return told + "\r\n"
    return told + _remarks("; ".join([f"{warning.field}: {warning.message}" for warning in warnings]))


@lru_cache(maxsize=256)
def _remarks(text: str) -> str:
    """The last cell of a line. The same few come again and again: fields and rules, no values."""
    return _quoted([text])


def _quoted(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


def _in_words(refused: PredictionRefused) -> str:
    if not isinstance(refused, InvalidEncounter):
        return refused.detail
    return "; ".join(f"{e.field}: {e.problem} (allowed: {e.allowed})" for e in refused.errors)
