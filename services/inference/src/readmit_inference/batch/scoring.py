"""Many encounters in, one answer for each: by column where that can be, one by one where something is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from readmit_contracts.prediction import FieldWarning
from readmit_features.columns import ColumnEncoder
from readmit_features.layout import Layout
from readmit_inference.batch.bodies import Row, Unreadable
from readmit_inference.domain import Answered, Serving, predict
from readmit_inference.errors import PredictionRefused

#: Rows read one by one before requests get their turn again: about a millisecond.
_TURN = 12


class RowAnswer(NamedTuple):
    """The answer for row `row`, the first being 1. `prediction_id` where it is kept in the log."""

    row: int
    risk: float
    readmitted_within_30_days: bool
    used_history: bool
    warnings: list[FieldWarning]
    prediction_id: str | None


class RowRefusal(NamedTuple):
    """Why there is none."""

    row: int
    refused: PredictionRefused


class BatchScorer:
    """Scores slices of a batch with one model. What it has learned of values is kept for the next batch."""

    def __init__(self, serving: Serving, executor: Executor) -> None:
        self.serving = serving
        self._executor = executor
        self._columns = ColumnEncoder(serving.model.encoder)

    async def answers(self, first: int, rows: Sequence[Row | Unreadable]) -> list[RowAnswer | RowRefusal]:
        """An answer per row, in order; for 512 rows the event loop is held some milliseconds at a time.

        `first` is the number of the first row. Trees are walked in a thread, which takes nothing from the loop.
        """
        answers: dict[int, RowAnswer | RowRefusal] = {}
        tables: dict[int, tuple[Layout, list[int], list[Sequence[object]]]] = {}
        latest = None
        for at, row in enumerate(rows):
            if isinstance(row, PredictionRefused):
                answers[at] = RowRefusal(first + at, row)
                continue
            layout, found, _ = row
            if layout is not latest:
                _, places, cells = tables.setdefault(id(layout), (layout, [], []))
                latest = layout
            places.append(at)
            cells.append(found)
        for layout, places, cells in tables.values():
            apart = await self._by_column(first, layout, places, cells, answers)
            for turn, at in enumerate(apart):
                if turn % _TURN == 0:
                    await asyncio.sleep(0)
                row = rows[at]
                if isinstance(row, Row):
                    answers[at] = one_by_one(self.serving, first + at, row)
        return [answers[at] for at in range(len(rows))]

    async def _by_column(
        self,
        first: int,
        layout: Layout,
        places: Sequence[int],
        cells: Sequence[Sequence[object]],
        answers: dict[int, RowAnswer | RowRefusal],
    ) -> list[int]:
        """Answers what can be answered so; says where the rows stand that cannot."""
        if not layout.names:
            return list(places)
        model = self.serving.model
        encoded = self._columns.encode(layout, cells)
        loop = asyncio.get_running_loop()
        margins = await loop.run_in_executor(self._executor, model.scorer.many, encoded.matrix)
        risk_of, threshold = model.manifest.calibration.risk, model.threshold
        reads_history = model.encoder.reads_history
        apart = set(encoded.apart)
        warnings, known = encoded.warnings, encoded.with_history.tolist()
        for number, (at, margin) in enumerate(zip(places, margins.tolist(), strict=True)):
            if number not in apart:
                risk = risk_of(margin)
                answers[at] = RowAnswer(
                    first + at, risk, risk >= threshold, known[number] and reads_history, warnings.get(number, []), None
                )
        return [places[number] for number in encoded.apart]


def one_by_one(serving: Serving, number: int, row: Row) -> RowAnswer | RowRefusal:
    """As `POST /predict` answers the row."""
    try:
        answered = predict(serving, row.as_encounter())
    except PredictionRefused as refused:
        return RowRefusal(number, refused)
    return of_row(number, answered)._replace(prediction_id=None)


def of_row(number: int, answered: Answered) -> RowAnswer:
    """The answer to a single request as that of a row."""
    return RowAnswer(
        number,
        answered.risk,
        answered.readmitted_within_30_days,
        answered.used_history,
        answered.warnings,
        answered.prediction_id,
    )
