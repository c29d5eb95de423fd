"""Answers, refusals and outages as people read them."""

from __future__ import annotations

import pytest

from readmit_contracts.prediction import (
    Contribution,
    Explanation,
    FieldError,
    FieldWarning,
    Prediction,
    Problem,
    ServingModel,
)
from readmit_ui import rendering
from readmit_ui.clients import Trouble
from readmit_ui.spanish import SPANISH
from readmit_ui.texts import ENGLISH, Texts

both = pytest.mark.parametrize("texts", [ENGLISH, SPANISH], ids=lambda texts: texts.language)


def refusal(*errors: FieldError) -> Trouble:
    problem = Problem(type="urn:x", title="T", status=422, detail="D", errors=list(errors))
    return Trouble("refused", problem)


@both
def test_an_answer_shows_risk_threshold_verdict_and_model(prediction: Prediction, texts: Texts) -> None:
    html = rendering.answer(prediction, texts)
    assert "23.4%" in html
    assert "12.5%" in html
    assert texts.verdict_high in html
    assert "LightGBM" in html
    assert texts.version.format(version="3") in html
    assert texts.epoch.format(epoch=7) in html
    assert "abababab" in html
    assert texts.synthetic_banner not in html


def test_a_low_risk_has_another_verdict(prediction: Prediction) -> None:
    low = prediction.model_copy(update={"risk": 0.02, "readmitted_within_30_days": False})
    assert ENGLISH.verdict_low in rendering.answer(low, ENGLISH)


@both
def test_a_synthetic_model_is_announced_loudly(prediction: Prediction, model: ServingModel, texts: Texts) -> None:
    synthetic = model.model_copy(update={"synthetic": True})
    assert texts.synthetic_banner in rendering.answer(prediction.model_copy(update={"model": synthetic}), texts)
    health = {"status": "ok", "model": synthetic.model_dump() | {"family": "lightgbm"}, "pod_id": "p"}
    assert texts.synthetic_banner in rendering.serving(health, texts)


def explained(model: ServingModel, *contributions: Contribution) -> Explanation:
    return Explanation(
        risk=0.234, readmitted_within_30_days=True, threshold=0.125, used_history=False, base=-2.0, margin=-1.2,
        contributions=list(contributions), calibration="beta", model=model, warnings=[],
    )  # fmt: skip


@both
def test_the_fields_that_moved_the_risk_are_named_with_their_values(prediction: Prediction, texts: Texts) -> None:
    explanation = explained(
        prediction.model,
        Contribution(field="number_inpatient", value=6, contribution=0.8),
        Contribution(field="discharge_disposition_id", value=1, contribution=-0.4),
        Contribution(field="history.previous_diag_1", value=None, contribution=0.3),
        Contribution(field="drugs_given", value=2, contribution=-0.2, made_of=["insulin", "metformin"]),
        Contribution(field="time_in_hospital-previous_time_in_hospital", value=3, contribution=0.1),
        *(Contribution(field=f"a field <{n}>", value="<b>", contribution=0.01) for n in range(9)),
    )
    html = rendering.why(prediction, explanation, texts)
    for expected in (
        texts.reasons, texts.labels["number_inpatient"], "+0.80", texts.code("discharge_disposition_id", 1), "-0.40",
        texts.labels["previous_diag_1"], texts.unknown, texts.counted["drugs_given"], texts.labels["time_in_hospital"],
        texts.labels["previous_time_in_hospital"], texts.other_fields.format(count=6), "+0.06",
    ):  # fmt: skip
        assert expected in html
    assert "width:50.0%" in html
    assert "width:25.0%" in html
    assert "<b>" not in html.replace("<i><b ", "")


def test_an_explanation_of_another_models_answer_is_not_shown(prediction: Prediction) -> None:
    newer = prediction.model.model_copy(update={"sha256": "cd" * 32})
    explanation = explained(newer, Contribution(field="age", value="[50-60)", contribution=0.1))
    assert rendering.why(prediction, explanation, ENGLISH) == ""
    assert rendering.why(prediction, None, ENGLISH) == ""
    assert rendering.why(Trouble("unreachable"), explanation, ENGLISH) == ""


@both
def test_the_page_always_says_that_it_is_not_for_clinical_use(texts: Texts) -> None:
    assert texts.not_clinical in rendering.header(texts, [ENGLISH, SPANISH])


@both
def test_refused_fields_are_named_in_the_pages_language(texts: Texts) -> None:
    html = rendering.answer(
        refusal(
            FieldError(field="time_in_hospital", value=900, problem="p", allowed="a"),
            FieldError(field="insulin", value="Sometimes", problem="p", allowed="a"),
            FieldError(field="admission_type_id", value=99, problem="p", allowed="a"),
            FieldError(field="diag_1", value=None, problem="p", allowed="a"),
            FieldError(field="payer_code", value="\x00", problem="p", allowed="a"),
        ),
        texts,
    )
    for expected in (
        texts.labels["time_in_hospital"], texts.labels["diag_1"], "900", "365", "Sometimes", texts.field_missing,
        texts.allowed_codes, texts.allowed_diagnosis, texts.allowed_text,
    ):  # fmt: skip
        assert expected in html


def test_a_field_that_the_page_does_not_know_is_explained_by_the_service() -> None:
    html = rendering.answer(refusal(FieldError(field="novel", value=1, problem="is odd", allowed="even")), ENGLISH)
    assert "novel" in html
    assert "is odd; even" in html


def test_warnings_say_which_value_was_read_how(prediction: Prediction) -> None:
    warnings = [
        FieldWarning(field="number_emergency", value=200, message="m"),
        FieldWarning(field="medical_specialty", value="SpaceMedicine", message="m"),
        FieldWarning(field="novel", value="x", message="is not used"),
    ]
    html = rendering.answer(prediction.model_copy(update={"warnings": warnings}), SPANISH)
    assert SPANISH.warning_capped.format(usual=76) in html
    assert SPANISH.warning_unseen in html
    assert "is not used" in html


@both
@pytest.mark.parametrize("kind", ["unauthorized", "rate_limited", "no_model", "overloaded", "unreachable", "failed"])
def test_each_outage_has_its_own_words(texts: Texts, kind: str) -> None:
    title, advice = texts.troubles[kind]
    html = rendering.answer(Trouble(kind), texts)  # type: ignore[arg-type]
    assert title in html.replace("&#x27;", "'")
    assert advice in html.replace("&#x27;", "'")


def test_the_line_about_the_model_in_service_degrades() -> None:
    unescaped = rendering.serving(None, ENGLISH).replace("&#x27;", "'")
    assert ENGLISH.troubles["unreachable"][0] in unescaped
    assert ENGLISH.troubles["no_model"][0] in rendering.serving({"status": "no_model", "model": None}, ENGLISH)


def test_nothing_from_outside_becomes_markup(prediction: Prediction) -> None:
    attack = "<script>alert(1)</script>"
    hostile = prediction.model.model_copy(update={"name": attack, "version": attack})
    warning = FieldWarning(field=attack, value=attack, message=attack)
    pages = (
        rendering.answer(prediction.model_copy(update={"model": hostile, "warnings": [warning]}), ENGLISH),
        rendering.answer(refusal(FieldError(field=attack, value=attack, problem=attack, allowed=attack)), ENGLISH),
        rendering.answer(refusal(FieldError(field="age", value=attack, problem="p", allowed="a")), ENGLISH),
        rendering.table("T", ["H"], [[attack]], ENGLISH),
    )
    assert all("<script" not in page for page in pages)
