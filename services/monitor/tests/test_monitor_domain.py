"""The judgement, without any I/O: chance raises no alarm, a shift does, and says so once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from readmit_contracts.encounter import BY_KEY, FEATURE_COLUMNS
from readmit_contracts.events import PredictionMade
from readmit_monitor.binning import Distribution, categorical, coded, distribution, features_of, numeric
from readmit_monitor.domain import (
    RISK,
    Evaluation,
    Observed,
    Policy,
    Reference,
    RiskReference,
    State,
    carried,
    evaluate,
    newly_drifted,
    still_drifted,
)
from readmit_monitor.stability import FLOOR, chi_square_quantile, psi, threshold

Encounter = dict[str, Any]
Predict = Callable[..., list[PredictionMade]]
NOW = datetime(2026, 11, 25, tzinfo=UTC)
NOTHING: frozenset[str] = frozenset()


def observed(events: Sequence[PredictionMade]) -> list[Observed]:
    return [
        Observed(e.at, e.model, e.epoch, e.synthetic, e.risk, e.readmitted_within_30_days, features_of(e.features))
        for e in events
    ]


def reference_of(rows: Sequence[Encounter]) -> Reference:
    features = {c.key: distribution(c, Counter(row[c.key] for row in rows)) for c in FEATURE_COLUMNS}
    return Reference(dataset_version=1, synthetic=True, rows=len(rows), features=features)


@pytest.fixture(scope="module")
def reference(encounters: list[Encounter]) -> Reference:
    return reference_of(encounters)


def judged(window: Sequence[PredictionMade], reference: Reference | None, **options: Any) -> Evaluation:
    arguments: dict[str, Any] = {"before": NOTHING, "policy": Policy(), "now": NOW} | options
    risk = arguments.pop("risk", None)
    return evaluate(observed(window), reference, risk, **arguments)


# --- bins


def test_numbers_are_binned_by_deciles_and_coinciding_ones_make_one_bin() -> None:
    even = numeric(dict.fromkeys(range(100), 10))
    assert even.edges == (9, 19, 29, 39, 49, 59, 69, 79, 89)
    assert even.counts == (100,) * 10 + (0,)
    mostly_zero = numeric({0: 890, 1: 70, 2: 30, 76: 10})
    assert mostly_zero.edges == (0, 1)
    assert mostly_zero.counts == (890, 70, 40, 0)


def test_numbers_outside_the_reference_fall_into_the_outer_bins_and_missing_has_its_own() -> None:
    bins = numeric({1: 50, 2: 50})
    assert bins.edges == (1,)
    assert bins.tally({-5: 1, 1: 1, 1.5: 2, 900: 3, None: 4, "text": 5}) == (2, 5, 9)


def test_categories_are_binned_by_value_and_rare_or_unseen_ones_are_pooled() -> None:
    bins = categorical({"MC": 600, "HM": 390, "rare": 9, None: 1})
    assert bins.values == ("HM", "MC")
    assert bins.counts == (390, 600, 9, 1)
    assert bins.tally({"MC": 1, "rare": 2, "never seen": 3, None: 4, "None": 5}) == (0, 1, 10, 4)


def test_codes_are_the_same_category_from_the_database_and_from_json() -> None:
    bins = distribution(BY_KEY["admission_type_id"], {1: 70, 2: 30})
    assert bins.tally({1: 7, 2: 3, 6: 1}) == bins.tally({"1": 7, "2": 3, "6": 1}) == (7, 3, 1, 0)


def test_diagnoses_are_binned_by_their_group() -> None:
    grouped = coded(BY_KEY["diag_1"], {"250.83": 2, "250.01": 3, "428": 5, "V27": 1, None: 4})
    assert grouped == {"diabetes": 5, "circulatory": 5, "supplementary": 1, None: 4}


def test_a_column_that_is_all_missing_has_bins_too() -> None:
    for make in (numeric, categorical):
        empty = make({None: 10})
        assert empty.rows == 10
        assert empty.tally({None: 2, 5: 1})[-1] == 2


def test_a_reference_survives_its_way_through_the_database(reference: Reference) -> None:
    assert Reference.model_validate_json(reference.model_dump_json()) == reference
    assert set(reference.features) == {column.key for column in FEATURE_COLUMNS}
    assert all(known.rows == reference.rows for known in reference.features.values())


# --- the index


def test_the_index_is_the_sum_of_the_textbook() -> None:
    by_hand = (0.6 - 0.5) * math.log(0.6 / 0.5) + (0.4 - 0.5) * math.log(0.4 / 0.5)
    assert psi((500, 500), (60, 40)) == pytest.approx(by_hand)
    assert psi((500, 500), (50, 50)) == 0
    assert psi((500, 500, 0), (50, 50, 0)) == 0


def test_a_bin_that_was_empty_gives_a_finite_index_that_grows_with_what_falls_into_it() -> None:
    few, many = psi((1000, 0), (99, 1)), psi((1000, 0), (50, 50))
    assert 0 < few < FLOOR < many < math.inf


@pytest.mark.parametrize(
    ("degrees", "tabulated"), [(1, 10.828), (2, 13.816), (3, 16.266), (5, 20.515), (10, 29.588), (20, 45.315)]
)
def test_the_quantile_of_chi_square_is_that_of_the_tables_or_a_little_above(degrees: int, tabulated: float) -> None:
    assert tabulated <= chi_square_quantile(degrees, 0.999) <= tabulated * 1.04


def test_the_threshold_is_the_rule_of_thumb_in_large_windows_and_chance_in_small_ones() -> None:
    many_bins = (1000,) * 20
    assert threshold(many_bins, (100,) * 20, 0.001) == FLOOR
    assert threshold(many_bins, (3,) * 20, 0.001) > 0.7
    assert threshold((1000, 0), (50, 0), 0.001) == FLOOR


def test_chance_exceeds_the_threshold_no_oftener_than_asked() -> None:
    """In windows so small that chance, and not the rule of thumb, sets it."""
    rng = np.random.default_rng(5)
    shares = np.full(10, 0.1)
    exceeded = 0
    for _ in range(4000):
        known, window = rng.multinomial(2000, shares).tolist(), rng.multinomial(120, shares).tolist()
        limit = threshold(known, window, 0.01)
        assert limit > 0.18
        exceeded += psi(known, window) > limit
    assert exceeded <= 4000 * 0.01 * 2


# --- the judgement


@pytest.mark.parametrize("rows", [500, 2000])
def test_the_same_population_raises_nothing(rows: int, predict: Predict, reference: Reference) -> None:
    for _ in range(20):
        evaluation = judged(predict(rows), reference)
        assert evaluation.state is State.STABLE, evaluation.drifted
        assert not newly_drifted(evaluation, NOTHING)
        assert evaluation.threshold < 0.35


def test_a_small_reference_raises_nothing_either(encounters: list[Encounter], predict: Predict) -> None:
    known = reference_of(encounters[:300])
    for _ in range(20):
        assert judged(predict(500), known).state is State.STABLE


def test_the_drift_of_the_data_set_itself_is_found(encounters_in_order: list[Encounter], predict: Predict) -> None:
    """Early encounters have no payer, as in the original data: a model of those meets others later."""
    early, late = encounters_in_order[:1500], encounters_in_order[-1000:]
    window = [event.model_copy(update={"features": row}) for event, row in zip(predict(1000), late, strict=True)]
    evaluation = judged(window, reference_of(early))
    assert [figure.feature for figure in evaluation.drifted] == ["payer_code"]


@pytest.mark.parametrize(
    ("feature", "value"),
    [("payer_code", None), ("payer_code", "never seen"), ("num_lab_procedures", 120), ("age", "[90-100)"),
     ("diag_1", "V57"), ("discharge_disposition_id", 22), ("insulin", "Up")],
)  # fmt: skip
def test_a_shift_of_a_feature_is_found_and_named_first(
    feature: str, value: Any, predict: Predict, reference: Reference
) -> None:
    evaluation = judged([*predict(300), *predict(300, changed={feature: value})], reference)
    assert evaluation.state is State.DRIFTED
    assert [figure.feature for figure in evaluation.drifted] == [feature]
    assert evaluation.figures[0].feature == feature
    assert evaluation.figures[0].psi > evaluation.figures[0].threshold
    assert newly_drifted(evaluation, NOTHING)


def test_what_has_drifted_is_news_once_and_needs_a_clear_return(predict: Predict, reference: Reference) -> None:
    def share(shifted: float) -> list[PredictionMade]:
        rows = int(1000 * shifted)
        return [*predict(1000 - rows), *predict(rows, changed={"payer_code": "never seen"})]

    drifted = frozenset({"payer_code"})
    half = judged(share(0.5), reference, before=drifted)
    assert half.state is State.DRIFTED
    assert not newly_drifted(half, drifted)
    flutter = share(0.025)
    assert FLOOR / 2 < judged(flutter, reference).figures[0].psi < FLOOR
    assert judged(flutter, reference).state is State.STABLE
    assert judged(flutter, reference, before=drifted).state is State.DRIFTED
    back = judged(share(0.0), reference, before=drifted)
    assert back.state is State.STABLE
    assert still_drifted(back, drifted) == NOTHING


def test_a_second_feature_is_news_although_a_first_has_long_drifted(predict: Predict, reference: Reference) -> None:
    both = predict(600, changed={"payer_code": None, "insulin": "Up"})
    evaluation = judged(both, reference, before=frozenset({"payer_code"}))
    assert newly_drifted(evaluation, frozenset({"payer_code"}))
    assert {figure.feature for figure in evaluation.drifted} == {"payer_code", "insulin"}


def test_too_few_predictions_or_no_reference_are_not_judged(predict: Predict, reference: Reference) -> None:
    shifted = predict(499, changed={"payer_code": None})
    few = judged(shifted, reference, before=frozenset({"insulin"}))
    assert (few.state, few.window_rows, few.figures) == (State.TOO_FEW, 499, ())
    assert still_drifted(few, frozenset({"insulin"})) == {"insulin"}
    assert judged(predict(600), None).state is State.NO_REFERENCE
    assert judged([], reference).state is State.NO_PREDICTIONS


def test_the_risk_is_compared_with_the_first_window_of_its_epoch(predict: Predict, reference: Reference) -> None:
    first = [event.risk for event in predict(2000)]
    known = RiskReference(epoch=1, risks=numeric(Counter(first)), until=NOW)
    window = predict(600)
    same = [event.risk for event in window]
    steady = judged(window, reference, risk=(known, same))
    assert steady.state is State.STABLE
    assert steady.risk is not None
    assert (steady.risk.reference_rows, steady.risk.window_rows) == (2000, 600)
    higher = judged(window, reference, risk=(known, [min(1.0, risk * 2) for risk in same]))
    assert [figure.feature for figure in higher.drifted] == [RISK]
    assert judged(window, reference, risk=(known, same[:499])).risk is None


def test_another_models_risk_is_forgotten_with_it(predict: Predict, reference: Reference) -> None:
    last = judged(predict(600, epoch=1), reference)
    drifted = frozenset({RISK, "payer_code"})
    assert carried(last, drifted, 1) == drifted
    assert carried(last, drifted, 2) == {"payer_code"}
    assert carried(None, drifted, 1) == {"payer_code"}


def test_the_window_is_described(predict: Predict, reference: Reference) -> None:
    events = [*predict(300, epoch=1), *predict(300, epoch=2)]
    evaluation = judged(events, reference)
    assert (evaluation.epoch, evaluation.model) == (2, events[-1].model)
    assert (evaluation.window_from, evaluation.window_to) == (events[0].at, events[-1].at)
    assert evaluation.risk_mean == pytest.approx(sum(e.risk for e in events) / 600)
    assert evaluation.alert_rate == pytest.approx(sum(e.readmitted_within_30_days for e in events) / 600)
    assert isinstance(evaluation.figures[0], type(evaluation.figures[-1]))
    psis = [figure.psi for figure in evaluation.figures]
    assert psis == sorted(psis, reverse=True)
    assert len(psis) == len(FEATURE_COLUMNS)


def test_nothing_but_features_is_watched(predict: Predict) -> None:
    [event] = predict(1)
    kept = features_of(event.features | {"something": "else"})
    assert set(kept) == {column.key for column in FEATURE_COLUMNS}
    assert "race" in event.features
    assert "race" not in kept
    assert Distribution(counts=(), values=()).rows == 0
