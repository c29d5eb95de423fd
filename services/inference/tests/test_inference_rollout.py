"""A rollout seen from outside: what each endpoint answers, what is logged, and that no request fails meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import REGISTRY

from readmit_bundle import load_model
from readmit_bundle.scorers import Floats
from readmit_chassis.failures import Transient
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import example_encounter
from readmit_contracts.events import PredictionsMade
from readmit_contracts.prediction import Prediction
from readmit_features.cleaning import clean_encounter
from readmit_inference.batch_publisher import Parcel
from readmit_inference.clinical.example import example_bundle, example_call
from readmit_inference.domain import prepare
from readmit_inference.prediction_event import Record, encoder, logged
from readmit_inference.prediction_log import PredictionLog
from readmit_inference.settings import Settings
from readmit_inference.testing import ROLLOUT_ID, Service, promote, rollout, running, tiny_bundle, until
from readmit_inference.trial import Trial, answer, position

from .remembered import Remembered, records_in

CHAMPION, CHALLENGER, THIRD = tiny_bundle(1), tiny_bundle(2, family="lightgbm"), tiny_bundle(3, family="lightgbm")
RISKS = {
    bundle.sha256: load_model(bundle).score_values(clean_encounter(example_encounter()).values)
    for bundle in (CHAMPION, CHALLENGER, THIRD)
}


def of_patient(number: int) -> dict[str, object]:
    return example_encounter() | {"patient_nbr": number}


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def on_trial(settings: Settings, store: MemoryStore) -> AsyncIterator[Service]:
    """The service with a challenger that answers for all patients."""
    async with running(settings, store) as service:
        await service.settle(promote(store, CHAMPION, epoch=1))
        await service.try_out(rollout(store, CHALLENGER, 1, "canary", share=1.0))
        yield service


@pytest.fixture
def trial_of(store: MemoryStore) -> Callable[..., Trial]:
    """Makes trials of the challenger in a stage, with a share of the patients."""

    def make(stage: str, share: float = 0.0) -> Trial:
        changed = rollout(store, CHALLENGER, 1, stage, share=share)  # type: ignore[arg-type]
        return Trial(changed, prepare(CHALLENGER, changed))

    return make


async def test_predict_says_which_model_answered_with_its_threshold(on_trial: Service) -> None:
    response = await on_trial.predict(of_patient(1))
    answered = Prediction.model_validate(response.json() | {"latency_ms": 0})
    model = answered.model
    assert (model.role, model.sha256, model.version, model.epoch) == ("challenger", CHALLENGER.sha256, "101", 1)
    assert answered.risk == RISKS[CHALLENGER.sha256]
    assert answered.threshold == load_model(CHALLENGER).threshold


async def test_explain_explains_the_model_that_answers(on_trial: Service) -> None:
    explained = (await on_trial.client.post("/explain", json=of_patient(1))).json()
    answered = (await on_trial.predict(of_patient(1))).json()
    assert explained["model"] == answered["model"]
    assert explained["risk"] == answered["risk"]
    assert explained["model"]["role"] == "challenger"


async def test_the_clinical_endpoints_draw_as_predict_does(on_trial: Service) -> None:
    fhir = await on_trial.client.post("/fhir/RiskAssessment/$predict", json=example_bundle())
    assert fhir.status_code == 200
    assert CHALLENGER.sha256 in fhir.text
    before = count("challenger_answers_total", stage="canary")
    card = await on_trial.client.post("/cds-services/readmission-risk", json=example_call())
    assert card.status_code == 200
    assert count("challenger_answers_total", stage="canary") == before + 1


@pytest.mark.parametrize("is_logged", ["true", "false"])
async def test_a_batch_stays_with_the_champion_and_says_so(on_trial: Service, is_logged: str) -> None:
    response = await on_trial.client.post(f"/predict/batch?log={is_logged}", json=[of_patient(1), of_patient(2)])
    assert response.headers["readmit-model-sha256"] == CHAMPION.sha256
    risks = [row["risk"] for row in response.json()["predictions"]]
    assert risks == [pytest.approx(RISKS[CHAMPION.sha256])] * 2


async def test_model_shows_the_challenger_its_stage_and_share(on_trial: Service, store: MemoryStore) -> None:
    shown = (await on_trial.client.get("/model")).json()
    assert (shown["sha256"], shown["role"]) == (CHAMPION.sha256, "champion")
    challenger = shown["challenger"]
    assert (challenger["sha256"], challenger["role"], challenger["family"]) == (
        CHALLENGER.sha256, "challenger", "lightgbm",
    )  # fmt: skip
    assert challenger["rollout"]["rollout_id"] == str(ROLLOUT_ID)
    assert (challenger["rollout"]["stage"], challenger["rollout"]["share"]) == ("canary", 1.0)
    on_trial.challenger.want(rollout(store, CHALLENGER, 2, "ended"))
    assert (await on_trial.client.get("/model")).json()["challenger"] is None


async def test_a_share_of_the_patients_is_answered_by_the_challenger_the_same_each_time(
    settings: Settings, store: MemoryStore
) -> None:
    changed = rollout(store, CHALLENGER, 1, "canary", share=0.4)
    expected = {number for number in range(1, 101) if position(ROLLOUT_ID, {"patient_nbr": number}) < 0.4}
    for _ in range(2):  # once more after a restart
        async with running(settings, store) as service:
            await service.settle(promote(store, CHAMPION, epoch=1))
            await service.try_out(changed)
            seen = {
                number
                for number in range(1, 101)
                for form in (number, f" {number} ")
                if (await service.predict(of_patient(number) | {"patient_nbr": form})).json()["model"]["role"]
                == "challenger"
            }
        assert seen == expected


async def test_a_canary_that_changes_all_the_time_under_load_fails_no_request(
    settings: Settings, store: MemoryStore
) -> None:
    """Shares, stages, promotions, rollbacks and ends; each answer is one model's own."""
    randomly = random.Random(5)
    answers: list[tuple[str, float, str]] = []
    async with running(settings, store) as service:
        await service.settle(promote(store, CHAMPION, epoch=1))
        is_done = False

        async def ask() -> None:
            while not is_done:
                await asyncio.sleep(0)  # within one process nothing else of a request waits
                response = await service.predict(of_patient(randomly.randrange(1, 1000)))
                assert response.status_code == 200, response.text
                body = response.json()
                answers.append((body["model"]["sha256"], body["risk"], body["model"]["role"]))

        clients = [asyncio.create_task(ask()) for _ in range(4)]
        epoch = revision = 1
        for round_ in range(12):
            for stage, share in (("shadow", 0.0), ("canary", 0.2), ("canary", 0.8)):
                revision += 1
                champion = service.champion.serving
                assert champion is not None
                challenger = CHALLENGER if champion.named.sha256 != CHALLENGER.sha256 else THIRD
                await service.try_out(
                    rollout(store, challenger, revision, stage, share=share, champion_epoch=epoch)  # type: ignore[arg-type]
                )
                await asyncio.sleep(0.03)
            ending = ("promoted", "ended", "another")[round_ % 3]
            if ending == "ended":
                revision += 1
                service.challenger.want(rollout(store, challenger, revision, "ended", champion_epoch=epoch))
            else:
                epoch += 1
                await service.settle(promote(store, challenger if ending == "promoted" else CHAMPION, epoch))
            assert service.champion.trial is None
            await asyncio.sleep(0.03)
        is_done = True
        await asyncio.gather(*clients)
    assert len(answers) > 300
    assert {role for _, _, role in answers} == {"champion", "challenger"}
    for sha256, risk, _ in answers:
        assert risk == RISKS[sha256]


class TestLogged:
    """Both answers in the event; the second one is the first thing that a log in need goes without."""

    @asynccontextmanager
    async def log(self, records: list[Record], gate: asyncio.Event, capacity: int) -> AsyncIterator[PredictionLog]:
        async def publish(leaving: Sequence[Parcel]) -> None:
            await gate.wait()
            records.extend(records_in(leaving))

        encode = encoder("pod-1", "source", None)
        log = PredictionLog(encode, publish, capacity=capacity, new_parcel=Remembered)
        task = asyncio.create_task(log.run())
        try:
            yield log
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @pytest.mark.parametrize("stage", ["shadow", "canary"])
    async def test_both_answers_are_in_the_event(
        self, store: MemoryStore, trial_of: Callable[..., Trial], stage: str
    ) -> None:
        serving = prepare(CHAMPION, promote(store, CHAMPION, epoch=1))
        answered = answer(serving, trial_of(stage, share=1.0), of_patient(7))
        records: list[Record] = []
        gate = asyncio.Event()
        gate.set()
        async with self.log(records, gate, 100) as log:
            log.add(answered, 0.001)
            await until(lambda: len(records) == 1)
        assert set(json.loads(records[0].value)) == set(PredictionsMade.model_fields)
        [event] = PredictionsMade.model_validate_json(records[0].value).predictions()
        assert event.other is not None
        first, second = (CHALLENGER, CHAMPION) if stage == "canary" else (CHAMPION, CHALLENGER)
        assert (event.sha256, event.risk) == (first.sha256, RISKS[first.sha256])
        assert (event.other.sha256, event.other.risk) == (second.sha256, RISKS[second.sha256])
        assert {event.role, event.other.role} == {"champion", "challenger"}
        assert (event.role == "challenger") == (stage == "canary")
        assert (event.rollout_id, event.epoch) == (ROLLOUT_ID, 1)
        assert event.other.score_ms > 0

    async def test_a_log_that_is_behind_skips_the_other_model_and_no_answer(
        self, store: MemoryStore, trial_of: Callable[..., Trial]
    ) -> None:
        serving = prepare(CHAMPION, promote(store, CHAMPION, epoch=1))
        answered = answer(serving, trial_of("shadow"), of_patient(7))
        records: list[Record] = []
        gate = asyncio.Event()
        skipped, lost = count("shadow_skipped_total"), count("prediction_log_dropped_total", reason="full")
        async with self.log(records, gate, 6000) as log:
            for _ in range(6000):
                log.add(answered, 0.001)
            gate.set()
            await until(lambda: sum(record.events for record in records) == 6000)
        events = [json.loads(record.value) for record in records]
        without = sum(event["answers"]["other"].count(None) for event in events)
        assert 0 < without < 6000
        assert count("shadow_skipped_total") == skipped + without
        assert count("prediction_log_dropped_total", reason="full") == lost
        assert {event["rollout_id"] for event in events} == {str(ROLLOUT_ID)}

    async def test_a_model_that_takes_its_time_is_asked_for_a_tenth_of_it(
        self, store: MemoryStore, trial_of: Callable[..., Trial]
    ) -> None:
        class Slow:
            def one(self, _: Floats) -> float:
                time.sleep(0.01)
                return -1.0

            def many(self, rows: Floats) -> Floats:
                return np.array([self.one(row) for row in rows])

            def shapley(self, row: Floats) -> tuple[Floats, float]:
                return row, 0.0

        fast = trial_of("shadow")
        slow = Trial(
            fast.changed, replace(fast.challenger, model=replace(fast.challenger.model, scorer=Slow()))
        )  # fmt: skip
        serving = prepare(CHAMPION, promote(store, CHAMPION, epoch=1))
        answered = answer(serving, slow, of_patient(7))
        records: list[Record] = []
        gate = asyncio.Event()
        gate.set()
        began, skipped = time.monotonic(), count("shadow_skipped_total")
        async with self.log(records, gate, 1000) as log:
            for _ in range(400):
                log.add(answered, 0.001)
            await until(lambda: sum(record.events for record in records) == 400)
        compared = 400 - (count("shadow_skipped_total") - skipped)
        assert 10 <= compared <= 12 + (time.monotonic() - began) * 0.1 / 0.01

    async def test_what_is_sent_again_is_not_asked_again(
        self, store: MemoryStore, trial_of: Callable[..., Trial]
    ) -> None:
        serving = prepare(CHAMPION, promote(store, CHAMPION, epoch=1))
        answered = answer(serving, trial_of("shadow"), of_patient(7))
        attempts: list[list[Record]] = []

        async def publish(leaving: Sequence[Parcel]) -> None:
            attempts.append(records_in(leaving))
            if len(attempts) < 3:
                raise Transient("away")

        log = PredictionLog(
            encoder("pod-1", "source", None),
            publish,
            capacity=10,
            pauses=lambda: iter([0.001] * 9),
            new_parcel=Remembered,
        )
        task = asyncio.create_task(log.run())
        before = count("shadow_difference_count")
        log.add(answered, 0.001)
        await until(lambda: len(attempts) == 3 and not len(log))
        task.cancel()
        assert count("shadow_difference_count") == before + 1
        assert attempts[0] == attempts[2]


async def test_without_a_rollout_an_event_says_nothing_of_one(store: MemoryStore) -> None:
    serving = prepare(CHAMPION, promote(store, CHAMPION, epoch=1))
    [record] = encoder("pod-1", "source", None)([logged(answer(serving, None, of_patient(7)), 0.001, 1.0)])
    event = json.loads(record.value)
    assert (event["role"], event["rollout_id"]) == ("champion", None)
    assert "other" not in event["answers"]


async def test_answers_of_different_models_are_told_apart(store: MemoryStore, trial_of: Callable[..., Trial]) -> None:
    serving, trial = prepare(CHAMPION, promote(store, CHAMPION, epoch=1)), trial_of("canary", share=0.5)
    answers = [logged(answer(serving, trial, of_patient(patient)), 0.001, 1.0) for patient in range(1, 41)]
    answers += [logged(answer(serving, None, of_patient(patient)), 0.001, 1.0) for patient in range(1, 41)]
    records = encoder("pod-1", "source", None)(answers)
    events = [PredictionsMade.model_validate_json(record.value) for record in records]
    assert [(event.role, event.rollout_id is None) for event in events if event.rollout_id is None] == [
        ("champion", True)
    ]
    assert sorted(event.role for event in events if event.rollout_id) == ["challenger", "champion"]
    told = {str(made.prediction_id): made for event in events for made in event.predictions()}
    assert len(told) == sum(record.events for record in records) == 80
    for one in answers:
        made = told[one.prediction_id]
        assert (made.risk, made.sha256) == (one.risk, one.serving.named.sha256)
        assert (made.rollout_id is None) == (one.beside is None)
