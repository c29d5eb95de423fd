"""Which of two models answers, and what the other one says."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID

import numpy as np
import pytest
from prometheus_client import REGISTRY

from readmit_bundle.scorers import Floats
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import example_encounter
from readmit_inference.comparison import OtherScore, TimeShare, compare
from readmit_inference.domain import Answered, Serving, predict, prepare
from readmit_inference.errors import InvalidEncounter, NoModel
from readmit_inference.testing import ROLLOUT_ID, promote, rollout, tiny_bundle
from readmit_inference.trial import Trial, answer, position

OTHER_ID = UUID("00000000-0000-4000-8000-000000000001")
#: Of one patient, as it was once drawn.
KNOWN_POSITION = 0.8589431864063669
#: The chi-square of 19 degrees of freedom stays below it 999 times of 1,000.
_CHI_SQUARE_19 = 43.82


@dataclass
class Broken:
    """A scorer that a bug, or a row, makes fail; or that says what no risk is."""

    risk: float | None = None

    def one(self, _: Floats) -> float:
        if self.risk is None:
            raise ZeroDivisionError
        return self.risk

    def many(self, rows: Floats) -> Floats:
        return np.array([self.one(row) for row in rows])

    def shapley(self, row: Floats) -> tuple[Floats, float]:
        raise NotImplementedError


def asked(answered: Answered) -> OtherScore:
    """What the model that did not answer says."""
    assert answered.beside is not None
    assert answered.beside.other is not None
    return compare(
        answered.beside,
        answered.beside.other,
        risk=answered.risk,
        readmitted_within_30_days=answered.readmitted_within_30_days,
    )


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture(scope="module")
def champion() -> Serving:
    return prepare(tiny_bundle(1), promote(MemoryStore(), tiny_bundle(1), epoch=3))


@pytest.fixture(scope="module")
def trial_of() -> Callable[..., Trial]:
    def make(stage: str = "canary", share: float = 1.0) -> Trial:
        bundle = tiny_bundle(2, family="lightgbm")
        changed = rollout(MemoryStore(), bundle, 1, stage, share=share, champion_epoch=3)  # type: ignore[arg-type]
        return Trial(changed, prepare(bundle, changed))

    return make


def broken(trial: Trial, risk: float | None = None) -> Trial:
    model = replace(trial.challenger.model, scorer=Broken(risk))
    return Trial(trial.changed, replace(trial.challenger, model=model))


def drawn(trial: Trial) -> set[int]:
    return {patient for patient in range(20_000) if trial.draws({"patient_nbr": patient})}


class TestDraw:
    """Sticky, uniform, and another one for each rollout."""

    def test_patients_are_spread_evenly(self) -> None:
        patients = 40_000
        bins = Counter(int(position(ROLLOUT_ID, {"patient_nbr": patient}) * 20) for patient in range(patients))
        expected = patients / 20
        assert set(bins) == set(range(20))
        assert sum((seen - expected) ** 2 / expected for seen in bins.values()) < _CHI_SQUARE_19

    def test_a_patient_is_drawn_alike_by_every_pod_and_after_every_restart(self) -> None:
        assert position(ROLLOUT_ID, {"patient_nbr": 8222157}) == pytest.approx(KNOWN_POSITION, abs=1e-15)
        assert position(ROLLOUT_ID, {"patient_nbr": 8222157, "encounter_id": 5}) == pytest.approx(KNOWN_POSITION)

    @pytest.mark.parametrize("share", [0.05, 0.5])
    def test_the_share_is_kept(self, trial_of: Callable[..., Trial], share: float) -> None:
        deviation = math.sqrt(20_000 * share * (1 - share))
        assert abs(len(drawn(trial_of(share=share))) - 20_000 * share) < 4 * deviation

    def test_raising_the_share_keeps_those_who_are_in_it(self, trial_of: Callable[..., Trial]) -> None:
        small, large = drawn(trial_of(share=0.1)), drawn(trial_of(share=0.3))
        assert small < large

    def test_another_rollout_draws_other_patients(self, trial_of: Callable[..., Trial]) -> None:
        trial = trial_of(share=0.1)
        other = Trial(trial.changed.model_copy(update={"rollout_id": OTHER_ID}), trial.challenger)
        assert len(drawn(trial) & drawn(other)) == pytest.approx(20_000 * 0.01, abs=60)

    def test_all_and_none_are_shares_too(self, trial_of: Callable[..., Trial]) -> None:
        assert len(drawn(trial_of(share=1.0))) == 20_000
        assert not drawn(trial_of(share=0.0))
        assert not drawn(trial_of("shadow", share=1.0))

    def test_without_a_patient_the_encounter_is_drawn(self) -> None:
        by_encounter = position(ROLLOUT_ID, {"patient_nbr": None, "encounter_id": 7})
        assert by_encounter == position(ROLLOUT_ID, {"encounter_id": 7})
        assert by_encounter != position(ROLLOUT_ID, {"patient_nbr": 7})

    def test_without_either_chance_decides(self) -> None:
        assert len({position(ROLLOUT_ID, {}) for _ in range(10)}) > 1


class TestAnswer:
    """The client gets an answer whatever the challenger does."""

    def test_the_challenger_answers_with_its_own_threshold_name_and_the_champions_epoch(
        self, champion: Serving, trial_of: Callable[..., Trial]
    ) -> None:
        trial = trial_of()
        before = count("challenger_answers_total", stage="canary")
        answered = answer(champion, trial, example_encounter())
        named = answered.serving.named
        assert (named.role, named.sha256, named.epoch) == ("challenger", tiny_bundle(2, family="lightgbm").sha256, 3)
        assert answered.risk == predict(trial.challenger, example_encounter()).risk
        assert count("challenger_answers_total", stage="canary") == before + 1
        other = asked(answered)
        assert (other.serving, other.risk) == (champion, predict(champion, example_encounter()).risk)

    def test_in_a_shadow_the_champion_answers_and_the_challenger_is_compared(
        self, champion: Serving, trial_of: Callable[..., Trial]
    ) -> None:
        trial = trial_of("shadow", share=0.0)
        answered = answer(champion, trial, example_encounter())
        assert answered.serving is champion
        before = {
            name: count(name) for name in ("shadow_difference_count", "shadow_difference_sum", "shadow_flips_total")
        }
        shadows = count("challenger_answers_total", stage="shadow")
        other = asked(answered)
        assert other.risk is not None
        assert other.score_s > 0
        assert other.risk == predict(trial.challenger, example_encounter()).risk
        flipped = other.readmitted_within_30_days != answered.readmitted_within_30_days
        assert count("shadow_difference_count") == before["shadow_difference_count"] + 1
        difference = count("shadow_difference_sum") - before["shadow_difference_sum"]
        assert difference == pytest.approx(abs(other.risk - answered.risk))
        assert count("shadow_flips_total") == before["shadow_flips_total"] + flipped
        assert count("challenger_answers_total", stage="shadow") == shadows + 1

    def test_a_history_reaches_the_model_that_is_asked_later(
        self, champion: Serving, trial_of: Callable[..., Trial]
    ) -> None:
        trial = trial_of("shadow", share=0.0)
        encounter = example_encounter() | {"history": {"previous_encounters": 4}}
        other = asked(answer(champion, trial, encounter))
        assert other.risk == predict(trial.challenger, encounter).risk

    @pytest.mark.parametrize("risk", [None, math.nan], ids=["raises", "not a number"])
    def test_where_the_challenger_fails_the_champion_answers_and_it_is_counted_once(
        self, champion: Serving, trial_of: Callable[..., Trial], risk: float | None
    ) -> None:
        before = count("challenger_failures_total"), count("challenger_answers_total", stage="canary")
        answered = answer(champion, broken(trial_of(), risk), example_encounter())
        assert answered.serving is champion
        assert answered.risk == predict(champion, example_encounter()).risk
        other = asked(answered)
        assert (other.serving.named.role, other.risk, other.readmitted_within_30_days) == ("challenger", None, None)
        assert count("challenger_failures_total") == before[0] + 1
        assert count("challenger_answers_total", stage="canary") == before[1]

    def test_a_challenger_that_fails_in_the_shadow_is_counted_and_leaves_the_log_alone(
        self, champion: Serving, trial_of: Callable[..., Trial]
    ) -> None:
        before = count("challenger_failures_total"), count("shadow_difference_count")
        other = asked(answer(champion, broken(trial_of("shadow", share=0.0)), example_encounter()))
        assert other.risk is None
        assert (count("challenger_failures_total"), count("shadow_difference_count")) == (before[0] + 1, before[1])

    def test_refusals_are_those_of_predict(self, champion: Serving, trial_of: Callable[..., Trial]) -> None:
        with pytest.raises(InvalidEncounter):
            answer(champion, trial_of(), {})
        with pytest.raises(NoModel):
            answer(None, trial_of(), example_encounter())

    def test_without_a_trial_nothing_is_compared(self, champion: Serving) -> None:
        answered = answer(champion, None, example_encounter())
        assert answered.beside is None


def test_a_share_of_the_time_is_no_more_whatever_one_piece_takes() -> None:
    share = TimeShare(0.1, 0.01)
    assert share.is_left()
    share.spend(0.012)
    assert not share.is_left()  # 2 ms too much are 20 ms of waiting
    time.sleep(0.03)
    assert share.is_left()
    time.sleep(0.2)
    share.is_left()
    share.spend(0.012)  # what is saved up is bounded
    assert not share.is_left()
