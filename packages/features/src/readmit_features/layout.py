"""Where the rows of a table, or objects with the same names, have which column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from readmit_contracts.encounter import MISSING_MARKERS, Column, Group, Kind
from readmit_contracts.history import HISTORY, HISTORY_KEYS, INPUTS_BY_KEY
from readmit_features.cleaning import input_key

#: Before the names of a history, where they stand beside the others.
PREFIX: Final = HISTORY + "."
#: The column that also takes true and false.
BOOLEAN: Final = "is_readmission"
#: In the cell of an object that lacks a name of its layout which no column has.
ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring cells, from `start` to before `stop`, that come as one piece; `split` makes cells of it.

    Columns of few values, such as those of the drugs, stand side by side, and few of the many ways in which they could
    be filled come at all: a piece is looked up in the time of one cell.
    """

    start: int
    stop: int
    split: Callable[[Any], Sequence[object]]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a table has which column: `keys[i]` is that of cell i, None where no column has its name.

    `repeated` are keys that two cells have: nothing but a refusal can come of that. A history in a file (`is_file`)
    is that of a patient of unknown history where all of its cells are missing; an object is given or it is not. Cells
    that are known to be texts, whole numbers or None (in `BOOLEAN` also booleans) are not looked at again (`is_plain`).
    In the place of the cells of a `run`, a row has one piece.
    """

    names: tuple[str, ...]
    keys: tuple[str | None, ...]
    repeated: frozenset[str]
    is_file: bool
    is_plain: bool = False
    run: Run | None = None

    @property
    def known(self) -> list[str]:
        """Names of columns."""
        return [name for name, key in zip(self.names, self.keys, strict=True) if key is not None]

    @property
    def unknown(self) -> list[str]:
        """Names that no column has."""
        return [name for name, key in zip(self.names, self.keys, strict=True) if key is None]

    @property
    def missing(self) -> list[str]:
        """Names of columns that every encounter must have, and no cell is."""
        return [column.name for column in INPUTS_BY_KEY.values() if is_required(column) and column.key not in self.keys]

    def longest_run(self) -> range:
        """Where most neighbours stand that take few values."""
        longest = range(0)
        start = 0
        for at, key in enumerate(self.keys):
            if key is None or key in HISTORY_KEYS or INPUTS_BY_KEY[key].kind is not Kind.CLOSED:
                start = at + 1
            elif at + 1 - start > len(longest):
                longest = range(start, at + 1)
        return longest

    def cells_of(self, row: Sequence[object]) -> Sequence[object]:
        """One for each name."""
        run = self.run
        return row if run is None else [*row[: run.start], *run.split(row[run.start]), *row[run.start + 1 :]]

    def encounter(self, row: Sequence[object]) -> dict[str, object]:
        """One row as the object that a client would post; cells of unknown names are left out."""
        encounter: dict[str, object] = {}
        history: dict[str, object] = {}
        for name, key, cell in zip(self.names, self.keys, self.cells_of(row), strict=True):
            if key in HISTORY_KEYS:
                history[name.removeprefix(PREFIX)] = cell
            elif key is not None:
                encounter[name] = cell
        if history and not (self.is_file and all(map(_is_missing, history.values()))):
            encounter[HISTORY] = history
        return encounter


def layout_of(names: Sequence[str], *, is_file: bool, is_plain: bool = False) -> Layout:
    """Names in any accepted spelling; those of the history stand behind `history.`"""
    keys = tuple(
        input_key(name.removeprefix(PREFIX), of_history=name.startswith(PREFIX)) for name in names
    )  # fmt: skip
    repeated = frozenset(key for key in keys if key is not None and keys.count(key) > 1)
    return Layout(tuple(names), keys, repeated, is_file, is_plain)


def is_required(column: Column) -> bool:
    """Whether there is no encounter without it."""
    return column.required and column.group is not Group.HISTORY


def _is_missing(cell: object) -> bool:
    return isinstance(cell, str) and cell.strip().casefold() in MISSING_MARKERS
