"""What happened after a prediction (`raw_data.outcomes`): recorded once, corrected on request, announced each time."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_contracts.events import OutcomeRecorded
from readmit_contracts.topics import OUTCOME_RECORDED
from readmit_ingestor.predictions import WHY_SET_ASIDE
from readmit_ingestor.store import Pool, Row

Connection = psycopg.AsyncConnection[Row]

#: So many at a time: other requests are answered in between.
_PART_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What somebody says about one prediction. `observed_at` is aware."""

    prediction_id: UUID
    readmitted: bool
    intervened: bool | None = None
    observed_at: datetime | None = None
    correction: bool = False

    def says(self) -> tuple[bool, bool | None, datetime | None]:
        """All but whose it is: two outcomes that say the same are one."""
        return self.readmitted, self.intervened, self.observed_at


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of the outcomes of one request. `unknown_predictions`: kept, but no prediction has this id yet."""

    recorded: int
    unchanged: int
    corrected: int
    unknown_predictions: int

    def __add__(self, other: Recorded) -> Recorded:
        return Recorded(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


class Conflict(Exception):  # noqa: N818  named for what is the case
    """Nothing was recorded.

    `different`: predictions of which something else is recorded, and this is no correction. `used`: predictions whose
    outcome stands in a dataset already, where nothing ever changes.
    """

    def __init__(self, different: list[UUID], used: list[UUID]) -> None:
        super().__init__(f"{len(different)} different, {len(used)} used")
        self.different = different
        self.used = used


async def record(pool: Pool, outcomes: Sequence[Outcome]) -> Recorded:
    """Record outcomes and announce them in one transaction, all or none; at most one for each prediction.

    Raises `Conflict`.
    """
    # In one order everywhere: two requests about the same predictions then never wait for each other.
    ordered = sorted(outcomes, key=lambda outcome: outcome.prediction_id)
    done, conflict = Recorded(0, 0, 0, 0), Conflict([], [])
    async with pool.connection() as connection:
        for at in range(0, len(ordered), _PART_ROWS):
            done += await _record(connection, ordered[at : at + _PART_ROWS], conflict)
        if conflict.different or conflict.used:
            raise conflict
    return done


async def _record(connection: Connection, outcomes: Sequence[Outcome], conflict: Conflict) -> Recorded:
    """Some of a request's outcomes, sorted. What is in conflict is added to what was before."""
    new = await _insert(connection, outcomes)
    there = [outcome for outcome in outcomes if outcome.prediction_id not in new]
    changed = await _compare(connection, there, conflict)
    await _correct(connection, changed)
    recorded = [replace(outcome, correction=False) for outcome in outcomes if outcome.prediction_id in new]
    await _announce(connection, [*recorded, *changed])
    unknown = await _count_unknown(connection, [outcome.prediction_id for outcome in outcomes])
    return Recorded(len(new), len(there) - len(changed), len(changed), unknown)


def _columns(outcomes: Sequence[Outcome]) -> tuple[list[Any], ...]:
    return (
        [outcome.prediction_id for outcome in outcomes],
        [outcome.readmitted for outcome in outcomes],
        [outcome.intervened for outcome in outcomes],
        [outcome.observed_at for outcome in outcomes],
    )


async def _insert(connection: Connection, outcomes: Sequence[Outcome]) -> set[UUID]:
    cursor = await connection.execute(
        "INSERT INTO raw_data.outcomes (prediction_id, readmitted, intervened, observed_at)"
        " SELECT * FROM unnest(%s::uuid[], %s::boolean[], %s::boolean[], %s::timestamptz[])"
        " ON CONFLICT (prediction_id) DO NOTHING RETURNING prediction_id",
        _columns(outcomes),
    )
    return {row["prediction_id"] for row in await cursor.fetchall()}


async def _compare(connection: Connection, outcomes: Sequence[Outcome], conflict: Conflict) -> list[Outcome]:
    """Those that may replace what is there, which is locked by then; those that may not are added to the conflict."""
    if not outcomes:
        return []
    cursor = await connection.execute(
        "SELECT prediction_id, readmitted, intervened, observed_at, used_in_version FROM raw_data.outcomes"
        " WHERE prediction_id = ANY(%s) ORDER BY prediction_id FOR UPDATE",
        ([outcome.prediction_id for outcome in outcomes],),
    )
    there = {row["prediction_id"]: row for row in await cursor.fetchall()}
    changed = []
    for outcome in outcomes:
        row = there[outcome.prediction_id]
        if (row["readmitted"], row["intervened"], row["observed_at"]) == outcome.says():
            continue
        if not outcome.correction:
            conflict.different.append(outcome.prediction_id)
        elif row["used_in_version"] is not None:
            conflict.used.append(outcome.prediction_id)
        else:
            changed.append(outcome)
    return changed


async def _correct(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    if outcomes:
        await connection.execute(
            "UPDATE raw_data.outcomes AS o SET readmitted = c.readmitted, intervened = c.intervened,"
            " observed_at = c.observed_at, recorded_at = clock_timestamp(), corrections = o.corrections + 1"
            " FROM unnest(%s::uuid[], %s::boolean[], %s::boolean[], %s::timestamptz[])"
            " AS c (prediction_id, readmitted, intervened, observed_at) WHERE o.prediction_id = c.prediction_id",
            _columns(outcomes),
        )


async def _announce(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    """`outcome.recorded` for each, in the trace of its prediction."""
    if not outcomes:
        return
    now = datetime.now(UTC)
    async with connection.cursor() as cursor:
        async with cursor.copy("COPY raw_data.outbox (topic, key, headers, payload) FROM STDIN") as copy:
            for outcome in outcomes:
                key = str(outcome.prediction_id)
                event = OutcomeRecorded(
                    prediction_id=outcome.prediction_id, readmitted_within_30_days=outcome.readmitted,
                    intervened=outcome.intervened, observed_at=outcome.observed_at, correction=outcome.correction,
                    recorded_at=now,
                )  # fmt: skip
                headers = json.dumps(_envelope(outcome.prediction_id).headers())
                await copy.write_row((OUTCOME_RECORDED.name, key, headers, event.model_dump_json()))
        await cursor.execute("SELECT pg_notify('raw_data_outbox', ''), pg_notify('raw_data_outcomes', '')")


def _envelope(prediction_id: UUID) -> Envelope:
    """A prediction's id is its trace's id, so that whatever follows from it is found by it."""
    envelope = new_envelope(OutcomeRecorded.EVENT_TYPE, source="ingestor", subject=str(prediction_id))
    return replace(envelope, traceparent=f"00-{prediction_id.hex}-{secrets.token_hex(8)}-01")


async def _count_unknown(connection: Connection, prediction_ids: list[UUID]) -> int:
    cursor = await connection.execute(
        "SELECT count(*) AS unknown FROM unnest(%s::uuid[]) AS given (prediction_id)"
        " WHERE NOT EXISTS (SELECT FROM raw_data.predictions AS p WHERE p.prediction_id = given.prediction_id)",
        (prediction_ids,),
    )
    found = await cursor.fetchone()
    return int(found["unknown"]) if found else 0


_SUMMARY = (
    "SELECT count(*) AS recorded, count(p.prediction_id) AS labelled,"
    " count(*) - count(p.prediction_id) AS unknown_predictions, count(*) FILTER (WHERE o.intervened) AS intervened,"
    " count(*) FILTER (WHERE o.corrections > 0) AS corrected, count(o.used_in_version) AS used,"
    " (SELECT max(version) FROM clean_data.datasets) AS dataset_version"
    " FROM raw_data.outcomes AS o LEFT JOIN raw_data.predictions AS p USING (prediction_id)"
)
#: Of each outcome that is not used: why it is set aside, or else the split in which it waits.
_BY_STATE = (
    "SELECT coalesce(o.set_aside, p.set_aside,"
    "  CASE WHEN p.synthetic <> (SELECT synthetic FROM clean_data.datasets ORDER BY version DESC LIMIT 1)"
    "  THEN 'other_kind' END, p.split) AS state, count(*) AS outcomes"
    " FROM raw_data.outcomes AS o JOIN raw_data.predictions AS p USING (prediction_id)"
    " WHERE o.used_in_version IS NULL GROUP BY state"
)


async def summary(pool: Pool) -> Row:
    """What came back: counts of outcomes, what waits for a batch by split, what is set aside by reason."""
    async with pool.connection() as connection:
        [counts] = await (await connection.execute(_SUMMARY)).fetchall()
        states = {row["state"]: row["outcomes"] for row in await (await connection.execute(_BY_STATE)).fetchall()}
    return counts | {
        "waiting": {split: states.get(split, 0) for split in ("train", "validation", "test")},
        "set_aside": [
            {"reason": reason, "outcomes": states[reason], "why": why}
            for reason, why in WHY_SET_ASIDE.items()
            if reason in states
        ],
    }
