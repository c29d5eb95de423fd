"""The one reader of encounters: the ingestor's CSV cells and the JSON of `/predict` go through the same rules.

`parse_value` is the rule for one value; everything else applies it: `clean_encounter` to one encounter from JSON,
`clean_rows` to rows of a file, `table.clean_table` to its columns. So training and serving cannot disagree about what a
value means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from readmit_contracts.encounter import COLUMNS, MISSING_MARKERS, Column, Group, Kind, normalise_name
from readmit_contracts.history import HISTORY, HISTORY_COLUMNS, INPUTS_BY_KEY
from readmit_contracts.prediction import FieldError, FieldWarning
from readmit_features import icd9

Value = int | str | None

#: Longest text that is a value, in characters.
MAX_TEXT = 64
#: Distinct raw values remembered per column before its memory starts afresh.
_REMEMBERED = 4096

_WHOLE = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
_ICD9 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,2})?|V[0-9]{2}(?:\.[0-9]{1,2})?|E[0-9]{3}(?:\.[0-9])?")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one raw value means: a clean value (None: missing), or the `problem` for which it was refused.

    `change` names the rule by which a cell of a file became another value, or was kept though it looks wrong.
    """

    value: Value = None
    warning: str | None = None
    problem: str | None = None
    change: str | None = None


@dataclass(frozen=True, slots=True)
class Cleaned:
    """One encounter, read: `values` holds every column but the outcome, in schema order; use them if no `errors`.

    `history` holds every column of the patient's history, and nothing where none was given.
    """

    values: dict[str, Value]
    history: dict[str, Value]
    warnings: list[FieldWarning]
    errors: list[FieldError]


@dataclass(frozen=True, slots=True)
class CleanedRows:
    """Rows of a file, read: `rows` in schema order without the refused ones, `line_index` says where each stood."""

    rows: list[tuple[Value, ...]]
    line_index: list[int]
    refused: dict[int, list[FieldError]]
    warnings: int


def parse_value(column: Column, raw: object) -> Parsed:
    """Read one value, from JSON or from a file; never raises, whatever `raw` is.

    Absent (None) becomes the column's default; a missing marker such as `?` is missing. Refusals say what is wrong;
    `allowed_text(column)` says what would be right.
    """
    if raw is None:
        return Parsed(column.default)
    if isinstance(raw, str):
        raw = raw.strip()
        if raw.casefold() in MISSING_MARKERS:
            return Parsed()
        if len(raw) > MAX_TEXT:
            return Parsed(problem=f"is longer than {MAX_TEXT} characters")
    return _PARSERS[column.kind](column, raw)


def allowed_text(column: Column) -> str:
    """What a column takes, in words."""
    match column.kind:
        case Kind.COUNT | Kind.IDENTIFIER:
            unit = f" ({column.unit})" if column.unit else ""
            return f"a whole number from {column.low} to {column.high}{unit}"
        case Kind.CODE:
            return f"one of the codes {_ranges(sorted(column.labels))}"
        case Kind.CLOSED:
            return "one of " + ", ".join(column.allowed)
        case Kind.OPEN:
            return f"text of 1 to {MAX_TEXT} printable characters"
        case Kind.DIAGNOSIS:
            return "an ICD-9-CM code as text, such as 250.83, 428, V27 or E849"


def shown(raw: object) -> str | int | float | bool | None:
    """A refused value in a form that is short and can always be written as JSON."""
    if raw is None or isinstance(raw, bool):
        return raw
    if isinstance(raw, int) and abs(raw) < 2**63:
        return raw
    if isinstance(raw, float) and math.isfinite(raw):
        return raw
    if isinstance(raw, str):
        text = raw if len(raw) <= MAX_TEXT else raw[:MAX_TEXT] + "…"
        return text.encode("utf-8", "replace").decode()
    return {dict: "an object", list: "an array", int: "a huge number"}.get(type(raw), f"a {type(raw).__name__}")


def _whole_number(raw: object) -> int | None:
    """The integer that a number or a text stands for, if it stands for one exactly."""
    if isinstance(raw, str):
        match = _WHOLE.fullmatch(raw)
        return int(match[1]) if match else None
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    return int(raw) if isinstance(raw, float) and raw.is_integer() else None


def _parse_number(column: Column, raw: object) -> Parsed:
    number = _whole_number(raw)
    if number is None:
        return Parsed(problem="is not a whole number")
    if column.low is not None and number < column.low:
        return Parsed(problem=f"is below {column.low}, which is impossible")
    if column.high is not None and number > column.high:
        return Parsed(problem=f"is above {column.high}, which is impossible")
    if column.usual_high is not None and number > column.usual_high:
        usual = column.usual_high
        return Parsed(usual, warning=f"is above {usual}, the largest value in the study, and is read as {usual}")
    return Parsed(number)


def _parse_code(column: Column, raw: object) -> Parsed:
    number = _whole_number(raw)
    if number is None:
        return Parsed(problem="is not a whole number")
    return Parsed(number) if number in column.labels else Parsed(problem="is not in the code table")


def _parse_closed(column: Column, raw: object) -> Parsed:
    if not isinstance(raw, str):
        return Parsed(problem="is not text")
    spelling = _SPELLINGS[column.key].get(_squeeze(raw))
    return Parsed(spelling) if spelling else Parsed(problem="is not one of the allowed values")


def _parse_open(column: Column, raw: object) -> Parsed:
    if not isinstance(raw, str):
        return Parsed(problem="is not text")
    if not raw.isprintable() or "\ufffd" in raw:
        return Parsed(problem="contains characters that cannot be printed")
    return Parsed(_SPELLINGS[column.key].get(_squeeze(raw), raw))


def _parse_diagnosis(_: Column, raw: object) -> Parsed:
    if not isinstance(raw, str):
        whole = _whole_number(raw)
        if whole is None:
            # 250.10 and 250.1 are two codes but one number.
            return Parsed(problem="is not text: write the code in quotes, so that no zero is lost")
        raw = str(whole)
    code = raw.upper()
    if not _ICD9.fullmatch(code):
        return Parsed(problem="is not an ICD-9-CM code")
    if code[0].isdigit():
        # Spreadsheets drop leading zeros, and the data set has lost them: 38 is 038, septicaemia.
        category, dot, detail = code.partition(".")
        code = category.zfill(3) + dot + detail
    known = icd9.is_known_category(code)
    return Parsed(code, warning=None if known else "is in no category of ICD-9-CM, and is kept as it is")


_PARSERS: Mapping[Kind, Callable[[Column, object], Parsed]] = {
    Kind.IDENTIFIER: _parse_number,
    Kind.COUNT: _parse_number,
    Kind.CODE: _parse_code,
    Kind.CLOSED: _parse_closed,
    Kind.OPEN: _parse_open,
    Kind.DIAGNOSIS: _parse_diagnosis,
}


def _squeeze(text: str) -> str:
    return "".join(text.split()).casefold()


def _spellings(column: Column) -> dict[str, str]:
    """Squeezed spelling → canonical one; bands such as `[50-60)` also with either bracket left out."""
    return {
        _squeeze(spelling): value
        for value in column.allowed
        for spelling in (
            (value, value[1:], value[:-1], value[1:-1]) if value.startswith("[") else (value,)
        )
    }  # fmt: skip


_SPELLINGS: Mapping[str, Mapping[str, str]] = {key: _spellings(column) for key, column in INPUTS_BY_KEY.items()}


def _ranges(numbers: Sequence[int]) -> str:
    """`[1, 2, 3, 5]` as `1-3, 5`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


class ColumnReader:
    """`parse_value` for one column, remembering what it has read: most values come again."""

    __slots__ = ("column", "key", "remembered")

    def __init__(self, column: Column) -> None:
        self.column = column
        self.key = column.key
        self.remembered: dict[object, Parsed] = {}

    def read(self, raw: object) -> Parsed:
        """Same answer as `parse_value`, faster."""
        # Only texts and ints are looked up: True and 1.0 are equal to 1 and would find its answer.
        if raw.__class__ is str or raw.__class__ is int:
            return self.remembered.get(raw) or self._read(raw)
        return parse_value(self.column, raw)

    def _read(self, raw: object) -> Parsed:
        parsed = parse_value(self.column, raw)
        if self.column.kind is not Kind.IDENTIFIER and len(str(shown(raw))) <= MAX_TEXT:
            if len(self.remembered) >= _REMEMBERED:
                self.remembered.clear()
            self.remembered[raw] = parsed
        return parsed


#: One reader per column, in schema order.
READERS: tuple[ColumnReader, ...] = tuple(ColumnReader(column) for column in COLUMNS)
_INPUTS: tuple[ColumnReader, ...] = tuple(r for r in READERS if r.column.group is not Group.OUTCOME)
_BY_NAME: Mapping[str, ColumnReader] = {
    spelling: reader for reader in _INPUTS for spelling in (reader.column.name, reader.key)
}
_DEFAULTS: Mapping[str, Value] = {reader.key: reader.column.default for reader in _INPUTS}
_REQUIRED: tuple[str, ...] = tuple(reader.key for reader in _INPUTS if reader.column.required)
_HISTORY: Mapping[str, ColumnReader] = {column.key: ColumnReader(column) for column in HISTORY_COLUMNS}
#: What a history says by itself when the patient has no earlier encounter.
FIRST_ENCOUNTER: Mapping[str, Value] = {"is_readmission": "No", "readmissions": 0}


def input_key(name: str, *, of_history: bool = False) -> str | None:
    """The column that a field name, in any accepted spelling, means; None where no column has it."""
    key = normalise_name(name)
    if of_history:
        return key if key in _HISTORY else None
    reader = _BY_NAME.get(name) or _BY_NAME.get(key)
    return None if reader is None else reader.key


def clean_encounter(raw: Mapping[str, object]) -> Cleaned:
    """Read one encounter from JSON. Names in any accepted spelling; fields that no column has are warned about."""
    values = dict(_DEFAULTS)
    names: dict[str, str] = {}
    warnings: list[FieldWarning] = []
    errors: list[FieldError] = []
    history: dict[str, Value] = {}
    for name, value in raw.items():
        reader = _BY_NAME.get(name) or _BY_NAME.get(normalise_name(name))
        if reader is None:
            if name == HISTORY:
                history = _clean_history(value, warnings, errors)
                continue
            warnings.append(_warning(name, value, "is not used, and was ignored"))
            continue
        key = reader.key
        # Most values are texts that were seen before: spare them the call.
        parsed = (reader.remembered.get(value) if value.__class__ is str else None) or reader.read(value)
        if names.setdefault(key, name) is not name and parsed != reader.read(raw[names[key]]):
            errors.append(field_error(key, name, value, f"is also given as {names[key]}, with another value"))
            continue
        values[key] = parsed.value
        if parsed.warning or parsed.problem:
            if parsed.warning:
                warnings.append(_warning(name, value, parsed.warning))
            if parsed.problem:
                errors.append(field_error(key, name, value, parsed.problem))
    refused = {normalise_name(error.field) for error in errors} if errors else set()
    errors.extend(
        field_error(key, names.get(key, INPUTS_BY_KEY[key].name), raw.get(names.get(key, "")), "is required")
        for key in _REQUIRED
        if values[key] is None and key not in refused
    )
    return Cleaned(values, history, warnings, errors)


def _clean_history(raw: object, warnings: list[FieldWarning], errors: list[FieldError]) -> dict[str, Value]:
    """Read the history of an encounter; fields are named `history.…` in what is said about them."""
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        allowed = f"an object with {', '.join(_HISTORY)}"
        errors.append(FieldError(field=HISTORY, value=shown(raw), problem="is not an object", allowed=allowed))
        return {}
    values: dict[str, Value] = dict.fromkeys(_HISTORY)
    refused: set[str] = set()
    for given, value in raw.items():
        name, reader = f"{HISTORY}.{given}", _HISTORY.get(normalise_name(str(given)))
        if reader is None:
            warnings.append(_warning(name, value, "is not used, and was ignored"))
            continue
        as_text = ("No", "Yes")[value] if isinstance(value, bool) and reader.key == "is_readmission" else value
        parsed = reader.read(as_text)
        values[reader.key] = parsed.value
        if parsed.warning:
            warnings.append(_warning(name, value, parsed.warning))
        if parsed.problem:
            refused.add(reader.key)
            errors.append(field_error(reader.key, name, value, parsed.problem))
    earlier = values["previous_encounters"]
    if earlier is None and "previous_encounters" not in refused:
        errors.append(field_error("previous_encounters", f"{HISTORY}.previous_encounters", None, "is required"))
    elif earlier == 0 and not refused:
        for key, value in values.items():
            if key != "previous_encounters" and value is not None and value != FIRST_ENCOUNTER.get(key):
                problem = "contradicts previous_encounters, which is 0: leave it out"
                errors.append(field_error(key, f"{HISTORY}.{key}", value, problem))
        values |= FIRST_ENCOUNTER
    return values


def clean_rows(rows: Sequence[Sequence[str]]) -> CleanedRows:
    """Read rows of a file, cells in schema order (all 50), by column.

    In a file a missing text is legitimate; a missing number or outcome refuses the row.
    """
    refused: dict[int, list[FieldError]] = {}
    warnings = 0
    columns: list[list[Value]] = []
    for reader, cells in zip(READERS, zip(*rows, strict=True), strict=True):
        parsed = {cell: read_cell(reader, cell) for cell in set(cells)}
        if any(one.problem or one.warning for one in parsed.values()):
            for index, cell in enumerate(cells):
                if problem := parsed[cell].problem:
                    refused.setdefault(index, []).append(field_error(reader.key, reader.column.name, cell, problem))
                warnings += parsed[cell].warning is not None
        values = {cell: one.value for cell, one in parsed.items()}
        columns.append([values[cell] for cell in cells])
    kept = [index for index in range(len(rows)) if index not in refused] if refused else list(range(len(rows)))
    cleaned = list(zip(*columns, strict=True))
    return CleanedRows([cleaned[index] for index in kept] if refused else cleaned, kept, refused, warnings)


def read_cell(reader: ColumnReader, cell: str) -> Parsed:
    """What a cell of a file means: as `parse_value`, but a number or an outcome may not be missing."""
    parsed = reader.read(cell)
    if parsed.problem is not None:
        return parsed
    column = reader.column
    if parsed.value is None and not column.may_be_missing:
        return Parsed(problem="is missing")
    change = _change(column, cell, parsed)
    return parsed if change is None else replace(parsed, change=change)


def _change(column: Column, cell: str, parsed: Parsed) -> str | None:
    """The rule that made another value of the cell; one of few texts, since it is counted and shown."""
    given, text = cell.strip(), "" if parsed.value is None else str(parsed.value)
    if column.kind is Kind.DIAGNOSIS and parsed.warning is not None:
        return "unknown category kept"
    if text == cell:
        return None
    if text == given:
        return "blanks trimmed"
    if parsed.value is None:
        return "missing marker read as missing"
    return f"capped at {text}" if parsed.warning is not None else _rewritten(column, given, text)


def _rewritten(column: Column, given: str, text: str) -> str:
    if column.is_number:
        return "rewritten as a whole number"
    zeros = column.kind is Kind.DIAGNOSIS and text.lstrip("0") == given.lstrip("0")
    return "leading zeros restored" if zeros else "spelling made canonical"


def _warning(name: str, value: object, message: str) -> FieldWarning:
    return FieldWarning(field=str(shown(name)), value=shown(value), message=message)


def field_error(key: str, name: str, value: object, problem: str) -> FieldError:
    """A refusal in words: what stood in which field, and what is allowed there."""
    allowed = allowed_text(INPUTS_BY_KEY[key])
    return FieldError(field=str(shown(name)), value=shown(value), problem=problem, allowed=allowed)
