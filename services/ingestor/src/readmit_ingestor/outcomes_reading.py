"""Outcomes as they come, JSON or CSV: read whole, with every fault named by its place, or refused."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from readmit_contracts.prediction import FieldError
from readmit_features.cleaning import shown
from readmit_ingestor.outcomes import Outcome

MAX_ROWS = 100_000
#: 100,000 outcomes with every field filled take 10 MB as CSV, 17 MB as JSON.
MAX_BYTES = 20_000_000
MAX_ERRORS = 100

#: A client's clock may be ahead of ours.
_CLOCK_SKEW = timedelta(minutes=1)
_NOT_BEFORE = datetime(1970, 1, 1, tzinfo=UTC)
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class BadOutcomes(Exception):  # noqa: N818  named for what they are
    """Nothing of it can be recorded: `reason` in one line, and at most `MAX_ERRORS` of what is wrong where."""

    def __init__(self, reason: str, errors: list[FieldError] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.errors = errors or []


def read_json(body: bytes) -> tuple[list[Outcome], int]:
    """One object, or a list of them: an outcome per prediction, and how many were repeated. Raises `BadOutcomes`."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadOutcomes(f"the body is not JSON ({type(error).__name__})") from error
    if isinstance(said, list):
        return _read(((f"[{at}].", one) for at, one in enumerate(said)), _JSON)
    return _read([("", said)], _JSON)


def read_csv(body: bytes) -> tuple[list[Outcome], int]:
    """`read_json` for a header and one outcome a line."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadOutcomes(f"the body is not UTF-8 (byte {error.start})") from error
    if "\0" in text:
        raise BadOutcomes("the body holds NUL characters: it is not CSV")
    lines = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [name.strip() for name in next(lines, [])]
        _refuse_header(header)
        return _read(_cells(header, lines), _CSV)
    except csv.Error as error:
        raise BadOutcomes(f"the body is not CSV: line {lines.line_num}: {error}") from error


def _refuse_header(header: list[str]) -> None:
    wanted = ", ".join(name if required else f"[{name}]" for name, required, _ in _CSV)
    known = {name for name, _, _ in _CSV}
    missing = [name for name, required, _ in _CSV if required and name not in header]
    if missing or len(set(header)) < len(header) or not known.issuperset(header):
        raise BadOutcomes(
            f"the first line has to name these columns, parted by commas, those in brackets if wanted: {wanted}",
            [FieldError(field="line 1", value=shown(",".join(header)), problem="is no header", allowed=wanted)],
        )


def _cells(header: list[str], lines: Any) -> Iterator[tuple[str, object]]:
    """Each line's place and its cells by column; empty ones are left out. Blank lines are none."""
    for cells in lines:
        if cells:
            row: object = {name: cell.strip() for name, cell in zip(header, cells, strict=False) if cell.strip()}
            yield f"line {lines.line_num}: ", row if len(cells) == len(header) else cells


class _Refused(Exception):  # noqa: N818
    """What is wrong with a value, and what is allowed."""

    def __init__(self, problem: str, allowed: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.allowed = allowed


def _identifier(raw: object) -> UUID:
    try:
        found = UUID(raw) if isinstance(raw, str) else None
    except ValueError:
        found = None
    if found is None or str(found) != str(raw).lower():
        raise _Refused("is not a prediction's id", "the `prediction_id` of an answer: 36 characters, a UUID")
    return found


def _flag(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    raise _Refused("is neither true nor false", "true or false")


def _word(raw: object) -> bool:
    word = _WORDS.get(str(raw).lower())
    if word is None:
        raise _Refused("is neither true nor false", "true, false, 1, 0, yes or no")
    return word


def _time(raw: object) -> datetime:
    allowed = "a date and time with its time zone, not in the future, such as 2026-11-23T09:30:00+01:00"
    try:
        at = datetime.fromisoformat(raw) if isinstance(raw, str) else None
    except ValueError:
        at = None
    if at is None:
        raise _Refused("is not a date and time", allowed)
    if at.tzinfo is None:
        raise _Refused("has no time zone", allowed)
    if at < _NOT_BEFORE:
        raise _Refused("is before 1970", allowed)
    if at > datetime.now(UTC) + _CLOCK_SKEW:
        raise _Refused("is in the future", allowed)
    return at


_Columns = tuple[tuple[str, bool, Callable[[object], Any]], ...]
_JSON: _Columns = (
    ("prediction_id", True, _identifier),
    ("readmitted_within_30_days", True, _flag),
    ("intervened", False, _flag),
    ("observed_at", False, _time),
    ("correction", False, _flag),
)
_CSV: _Columns = tuple((name, required, _word if read is _flag else read) for name, required, read in _JSON)


def _read(rows: Iterable[tuple[str, object]], columns: _Columns) -> tuple[list[Outcome], int]:
    read: dict[UUID, Outcome] = {}
    errors: list[FieldError] = []
    repeated = 0
    for number, (place, row) in enumerate(rows):
        if number == MAX_ROWS:
            raise BadOutcomes(f"more than {MAX_ROWS} outcomes; send them in parts")
        outcome = _read_one(place, row, columns, errors)
        if outcome is not None and (before := read.setdefault(outcome.prediction_id, outcome)) is not outcome:
            repeated += 1
            if before.says() != outcome.says():
                problem = "is said twice, with different outcomes"
                errors.append(_error(place, "prediction_id", str(outcome.prediction_id), problem, "one outcome each"))
        if len(errors) >= MAX_ERRORS:
            break
    if errors:
        shown_errors = errors[:MAX_ERRORS]
        more = f", and perhaps more: reading stopped after {MAX_ERRORS}" if len(errors) >= MAX_ERRORS else ""
        raise BadOutcomes(f"{len(shown_errors)} values are refused{more}; nothing was recorded", shown_errors)
    if not read:
        raise BadOutcomes("no outcome is given")
    return list(read.values()), repeated


def _read_one(place: str, row: object, columns: _Columns, errors: list[FieldError]) -> Outcome | None:
    """One outcome; None, and errors added, where it cannot be read."""
    names = ", ".join(name for name, _, _ in columns)
    if not isinstance(row, Mapping):
        value = f"{len(row)} cells" if isinstance(row, list) and columns is _CSV else row
        errors.append(_error(place, "outcome", value, "does not have these fields", names))
        return None
    before = len(errors)
    unknown = row.keys() - {name for name, _, _ in columns}
    errors += [_error(place, name, row[name], "is not a field of an outcome", names) for name in sorted(unknown)]
    values: list[Any] = []
    for name, required, read in columns:
        raw, value = row.get(name), None
        try:
            if raw is not None:
                value = read(raw)
            elif required:
                errors.append(_error(place, name, None, "has to be given", "a value"))
        except _Refused as refused:
            errors.append(_error(place, name, raw, refused.problem, refused.allowed))
        values.append(value)
    if len(errors) > before:
        return None
    prediction_id, readmitted, intervened, observed_at, correction = values
    return Outcome(prediction_id, readmitted, intervened, observed_at, bool(correction))


def _error(place: str, name: str, value: object, problem: str, allowed: str) -> FieldError:
    return FieldError(field=f"{place}{shown(name)}", value=shown(value), problem=problem, allowed=allowed)
