"""The judgement on outcomes, without any I/O: chance raises no alarm, a loss does, and says so once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from readmit_contracts.events import ModelVersion
from readmit_monitor.performance import (
    AUROC,
    IN_THE_LARGE,
    Answer,
    Champion,
    LivePolicy,
    Performance,
    State,
    assess,
    carried,
    newly_degraded,
    still_degraded,
)

NOW = datetime(2026, 12, 24, tzinfo=UTC)
POLICY = LivePolicy()
MODEL = ModelVersion(name="diabetes_readmission_lightgbm", version="5", family="lightgbm")
#: What `answers` that are right come to, of very many.
TRUE_AUROC = 0.665
CHAMPION = Champion(epoch=3, model=MODEL, synthetic=False, validation_auroc=TRUE_AUROC)
NOTHING: frozenset[str] = frozenset()


def answers(rows: int, seed: int, *, slope: float = 1.0, shift: float = 0.0) -> list[Answer]:
    """Of three patients in four encounters; log-odds spread `slope` times the risk's, and lie `shift` higher."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, rows * 3 // 4, rows)
    drawn = (rng.normal(size=rows)[patient] + rng.normal(size=rows)) / np.sqrt(2)
    risk = 1 / (1 + np.exp(2.25 - 0.62 * drawn))
    label = rng.random(rows) < 1 / (1 + np.exp(2.25 - shift - slope * 0.62 * drawn))
    start = NOW - timedelta(days=60)
    of_each = zip(patient.tolist(), risk.tolist(), label.tolist(), strict=True)
    return [
        Answer(start + timedelta(minutes=number), f"patient {whose}", chance, readmitted, intervened=False)
        for number, (whose, chance, readmitted) in enumerate(of_each)
    ]


def judged(
    known: Sequence[Answer],
    *,
    champion: Champion | None = CHAMPION,
    before: frozenset[str] = NOTHING,
    policy: LivePolicy = POLICY,
) -> Performance:
    return assess(champion, known, before=before, policy=policy, now=NOW)


def test_a_champion_that_is_what_it_was_promoted_for_is_sound() -> None:
    found = judged(answers(2_000, 1))
    discrimination, calibration = found.figures
    assert (found.state, found.window_rows, found.epoch, found.model) == (State.SOUND, 2_000, 3, MODEL)
    assert discrimination.low < TRUE_AUROC < discrimination.high
    assert (discrimination.reference, discrimination.limit) == (TRUE_AUROC, TRUE_AUROC - 0.03)
    assert calibration.low < 0 < calibration.high
    assert (calibration.reference, abs(calibration.limit or 0)) == (0.0, 0.03)
    assert found.readmission_rate == found.window_positives / 2_000
    assert found.readmission_rate - (found.risk_mean or 0) == pytest.approx(calibration.value)
    assert Performance.model_validate_json(found.model_dump_json()) == found


def test_a_loss_of_order_and_a_loss_of_level_are_each_found_and_told_apart() -> None:
    upside_down, too_low, too_high = (
        judged(answers(2_000, 2, slope=-1.0)),
        judged(answers(2_000, 3, shift=1.0)),
        judged(answers(2_000, 3, shift=-1.5)),
    )
    assert [figure.name for figure in upside_down.degraded] == [AUROC]
    assert (
        [figure.name for figure in too_low.degraded] == [figure.name for figure in too_high.degraded] == [IN_THE_LARGE]
    )
    assert too_low.degraded[0].low > 0.03 == too_low.degraded[0].limit
    assert too_high.degraded[0].high < -0.03 == too_high.degraded[0].limit
    assert {found.state for found in (upside_down, too_low, too_high)} == {State.DEGRADED}


def test_a_loss_within_what_is_allowed_or_within_chance_is_none() -> None:
    allowed = judged(answers(20_000, 4, slope=0.85), policy=replace(POLICY, window_rows=20_000))
    assert TRUE_AUROC - 0.03 < allowed.figures[0].value < TRUE_AUROC - 0.01
    chance = judged(answers(600, 5, slope=0.6))
    assert chance.figures[0].value < TRUE_AUROC - 0.03 < chance.figures[0].high
    assert {allowed.state, chance.state} == {State.SOUND}


@pytest.mark.parametrize(("slope", "shift"), [(0.8, 0.0), (1.0, 0.285)])
def test_at_its_very_limit_chance_raises_an_alarm_no_oftener_than_asked(slope: float, shift: float) -> None:
    """2,000 looks at independent windows; one in a hundred is asked of it here, so that there is something to count."""
    policy = replace(POLICY, false_alarms=0.03)  # of three ends
    reference = {0.8: 0.634 + 0.03, 1.0: None}[slope]
    champion = CHAMPION.model_copy(update={"validation_auroc": reference})
    alarms = sum(
        judged(answers(600, seed, slope=slope, shift=shift), champion=champion, policy=policy).state is State.DEGRADED
        for seed in range(2_000)
    )
    assert 2 <= alarms <= 2 * 20


def test_without_a_champion_nothing_is_judged() -> None:
    assert judged([], champion=None).state is State.NO_CHAMPION


@pytest.mark.parametrize("rows", [0, 1, 499])
def test_too_few_outcomes_are_not_judged_and_what_was_degraded_stays_so(rows: int) -> None:
    found = judged(answers(2_000, 2, slope=-1.0)[:rows], before=frozenset({AUROC}))
    assert (found.state, found.window_rows, found.figures) == (State.TOO_FEW, rows, ())
    assert still_degraded(found, frozenset({AUROC})) == {AUROC}


@pytest.mark.parametrize("patients", [1, 29, 30])
@pytest.mark.parametrize("readmitted", [True, False])
def test_few_patients_of_a_class_are_not_judged_however_many_encounters_they_have(
    readmitted: bool, patients: int
) -> None:
    of_few = [Answer(NOW, f"few {number % patients}", 0.2, readmitted, False) for number in range(300)]
    of_many = [Answer(NOW, f"many {number}", 0.1, not readmitted, False) for number in range(300)]
    found = judged([*of_few, *of_many])
    assert (found.state is State.TOO_FEW) == (patients < 30)
    assert {found.patients_readmitted, found.patients_not_readmitted} == {patients, 300}


def test_outcomes_of_encounters_on_which_somebody_acted_are_left_out_and_counted() -> None:
    usual = answers(1_000, 6)
    averted = [replace(answer, risk=0.9, readmitted=False, intervened=True) for answer in answers(400, 7)]
    found = judged([*usual, *averted])
    assert (found.window_rows, found.intervened) == (1_000, 400)
    assert found.figures == judged(usual).figures
    assert judged([replace(answer, intervened=True) for answer in usual]).window_rows == 0


def test_without_a_reference_auroc_is_shown_and_not_judged_but_calibration_is() -> None:
    unknown = CHAMPION.model_copy(update={"validation_auroc": None})
    found = judged(answers(2_000, 2, slope=-1.0), champion=unknown, before=frozenset({AUROC}))
    assert (found.state, found.figures[0].limit, found.figures[0].degraded) == (State.SOUND, None, False)
    assert judged(answers(2_000, 3, shift=1.0), champion=unknown).state is State.DEGRADED


def test_what_is_degraded_is_news_once_and_needs_a_clear_return() -> None:
    degraded = frozenset({AUROC, IN_THE_LARGE})
    still = judged(answers(2_000, 2, slope=-1.0, shift=1.0), before=degraded)
    assert {figure.name for figure in still.degraded} == degraded
    assert not newly_degraded(still, degraded)
    assert newly_degraded(still, frozenset({AUROC}))

    flutter = answers(40_000, 8, slope=0.8, shift=0.26)  # neither beyond its limit, nor half the way back
    assert judged(flutter).state is State.SOUND
    assert {figure.name for figure in judged(flutter, before=degraded).degraded} == degraded

    back = judged(answers(2_000, 1), before=degraded)
    assert back.state is State.SOUND
    assert still_degraded(back, degraded) == NOTHING


def test_what_another_champion_has_lost_says_nothing_of_this_one() -> None:
    last = judged(answers(2_000, 2, slope=-1.0))
    lost = frozenset({AUROC})
    assert carried(last, lost, CHAMPION) == lost
    assert carried(last, lost, CHAMPION.model_copy(update={"epoch": 4})) == NOTHING
    assert carried(last, lost, None) == carried(None, lost, CHAMPION) == NOTHING


def test_an_interval_is_as_wide_as_the_level_says() -> None:
    assert POLICY.standard_errors == pytest.approx(3.403, abs=0.001)
    assert replace(POLICY, false_alarms=0.075).standard_errors == pytest.approx(1.96, abs=0.001)
    figure = judged(answers(2_000, 1)).figures[0]
    wider = judged(answers(2_000, 1), policy=replace(POLICY, false_alarms=0.00001)).figures[0]
    assert math.isclose(figure.value - figure.low, figure.high - figure.value)
    assert wider.low < figure.low
