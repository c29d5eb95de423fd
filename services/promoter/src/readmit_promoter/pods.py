"""What pods and their answers say, in PostgreSQL: last words, arrivals, answers of a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb

from readmit_contracts.events import ModelLoaded, OtherAnswer, PredictionMade
from readmit_promoter.convergence import Arrival
from readmit_promoter.ledger import RolloutStage
from readmit_promoter.store import Connection, Pool, transaction
from readmit_promoter.trial import Figures

# A pod's word counts when it is newer and its epoch does not go back; anything else arrived late.
_UPSERT_POD = """
INSERT INTO governance.pods AS known (pod_id, outcome, epoch, model, sha256, load_ms, reason, at, has_left, occasion)
VALUES (
    %(pod_id)s, %(outcome)s, %(epoch)s, %(model)s, %(sha256)s, %(load_ms)s, %(reason)s, %(at)s, %(has_left)s,
    %(occasion)s
)
ON CONFLICT (pod_id) DO UPDATE SET
    outcome = excluded.outcome, epoch = excluded.epoch, model = excluded.model, sha256 = excluded.sha256,
    load_ms = CASE WHEN excluded.occasion = 'load' THEN excluded.load_ms ELSE known.load_ms END,
    reason = excluded.reason, at = excluded.at, has_left = excluded.has_left, occasion = excluded.occasion,
    heard_at = clock_timestamp()
WHERE excluded.at > known.at AND excluded.epoch >= known.epoch
"""
_ARRIVE = """
INSERT INTO governance.arrivals AS known (epoch, pod_id, at, refused)
VALUES (%(epoch)s, %(pod_id)s, %(at)s, %(refused)s)
ON CONFLICT (epoch, pod_id) DO UPDATE
SET at = excluded.at, heard_at = excluded.heard_at, refused = excluded.refused
WHERE known.refused IS NOT NULL AND excluded.refused IS NULL
"""
_CHALLENGER_WORD = """
INSERT INTO governance.challenger_pods AS known (pod_id, rollout_revision, outcome, reason, at)
VALUES (%(pod_id)s, %(rollout_revision)s, %(outcome)s, %(reason)s, %(at)s)
ON CONFLICT (pod_id, rollout_revision) DO UPDATE
SET outcome = excluded.outcome, reason = excluded.reason, at = excluded.at WHERE excluded.at > known.at
"""
_LIVE = """
SELECT pod_id, outcome, epoch, model, sha256, load_ms, reason, at FROM governance.pods
WHERE NOT has_left AND heard_at > clock_timestamp() - %s * interval '1 second' ORDER BY pod_id
"""
_FIGURES = """
SELECT count(challenger_risk) AS answers, count(*) FILTER (WHERE by_challenger) AS by_challenger,
    count(*) FILTER (WHERE challenger_risk IS NULL) AS failures,
    avg(challenger_risk - champion_risk) AS mean_risk_difference,
    count(*) FILTER (WHERE decision_differs) AS changed_decisions, avg(score_ms) AS mean_score_ms
FROM governance.trial_answers WHERE rollout_id = %s AND stage = %s
"""
_TAKE_ANSWER = """
INSERT INTO governance.trial_answers (
    prediction_id, rollout_id, stage, by_challenger, champion_risk, challenger_risk, decision_differs, score_ms
) VALUES (
    %(prediction_id)s, %(rollout_id)s, %(stage)s, %(by_challenger)s, %(champion_risk)s, %(challenger_risk)s,
    %(decision_differs)s, %(score_ms)s
) ON CONFLICT DO NOTHING
"""


async def note_pod(pool: Pool, event: ModelLoaded) -> None:
    """Remember a pod's last word, and its first one on each promotion."""
    async with transaction(pool) as connection:
        if event.role == "challenger":
            if event.rollout_revision is not None:
                await connection.execute(_CHALLENGER_WORD, event.model_dump())
            return
        row = event.model_dump() | {"model": Jsonb(event.model.model_dump()), "has_left": event.occasion == "leaving"}
        await connection.execute(_UPSERT_POD, row)
        refused = (event.reason or "no reason given") if event.outcome == "refused" else None
        await connection.execute(_ARRIVE, row | {"refused": refused})


async def pods(connection: Connection, limit: int) -> list[ModelLoaded]:
    """The last word of each pod that has not left, newest first."""
    query = "SELECT * FROM governance.pods WHERE NOT has_left ORDER BY at DESC LIMIT %s"
    return [ModelLoaded.model_validate(row) async for row in await connection.execute(query, (limit,))]


async def live(connection: Connection, within_s: float) -> list[ModelLoaded]:
    """The last word of each pod that has been heard of lately and has not left."""
    return [ModelLoaded.model_validate(row) async for row in await connection.execute(_LIVE, (within_s,))]


async def arrivals(connection: Connection, epoch: int, promoted_at: datetime) -> Mapping[str, Arrival]:
    """What pods have said of a promotion, by pod."""
    # A pod's clock that runs ahead cannot put its arrival after we heard of it.
    query = "SELECT pod_id, least(at, heard_at) AS at, refused FROM governance.arrivals WHERE epoch = %s"
    cursor = await connection.execute(query, (epoch,))
    return {
        row["pod_id"]: Arrival(row["pod_id"], max(0.0, (row["at"] - promoted_at).total_seconds()), row["refused"])
        async for row in cursor
    }


async def refusing(connection: Connection, revision: int, within_s: float) -> dict[str, str]:
    """The live pods that refuse a challenger, with their reasons."""
    alive = {pod.pod_id for pod in await live(connection, within_s)}
    query = "SELECT pod_id, reason FROM governance.challenger_pods WHERE rollout_revision = %s AND outcome = 'refused'"
    cursor = await connection.execute(query, (revision,))
    return {row["pod_id"]: row["reason"] or "" async for row in cursor if row["pod_id"] in alive}


async def take_answers(
    connection: Connection, made: Sequence[PredictionMade], trial: RolloutStage, *, at_most: int
) -> None:
    """Keep what both models said of encounters, each once, and no more than `at_most` for a stage."""
    query = "SELECT count(*) AS kept FROM governance.trial_answers WHERE rollout_id = %s AND stage = %s"
    row = await (await connection.execute(query, (trial.rollout_id, trial.stage))).fetchone()
    room = at_most - (row["kept"] if row else 0)
    of_both = [_of_both(answer, answer.other, trial) for answer in made if answer.other is not None]
    if room > 0:
        async with connection.cursor() as cursor:
            await cursor.executemany(_TAKE_ANSWER, of_both[:room])


def _of_both(answer: PredictionMade, other: OtherAnswer, trial: RolloutStage) -> dict[str, object]:
    by_challenger = answer.role == "challenger"
    champion, challenger = (other.risk, answer.risk) if by_challenger else (answer.risk, other.risk)
    differs = None
    if other.readmitted_within_30_days is not None:
        differs = other.readmitted_within_30_days != answer.readmitted_within_30_days
    return {
        "prediction_id": answer.prediction_id,
        "rollout_id": trial.rollout_id,
        "stage": trial.stage,
        "by_challenger": by_challenger,
        "champion_risk": champion,
        "challenger_risk": challenger,
        "decision_differs": differs,
        "score_ms": None if by_challenger else other.score_ms,
    }


async def figures(connection: Connection, rollout_id: UUID, stage: str) -> Figures:
    """What was kept of a stage, counted."""
    row = await (await connection.execute(_FIGURES, (rollout_id, stage))).fetchone()
    return Figures(**row) if row else Figures()


async def forget_answers(connection: Connection) -> None:
    """When a trial has ended: its figures stand in the ledger."""
    await connection.execute("DELETE FROM governance.trial_answers")
