"""The bundle: exact round trips, and a refusal for everything that is not the bundle that was announced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightgbm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from readmit_bundle import (
    Bundle,
    BundleRefused,
    GoldenRow,
    Lineage,
    Manifest,
    Platt,
    ScorerKind,
    Threshold,
    load_model,
    pack,
    read_bundle,
    write_bundle,
)
from readmit_contracts.events import ArtifactRef, ValidationScores
from readmit_features.row import RowEncoder
from readmit_features.spec import CategoricalFeature, FeatureSpec, NumericFeature

SPEC = FeatureSpec(
    numeric=(
        NumericFeature(column="number_inpatient", reading="number", fill=0.0),
        NumericFeature(column="age", reading="band_middle", fill=65.0),
    ),
    tallies=(),
    categorical=(CategoricalFeature(column="insulin", reading="value", values=("No", "Up")),),
)
RANDOM = np.random.default_rng(3)
ROWS = np.column_stack([RANDOM.integers(0, 9, 400), RANDOM.choice([45.0, 65.0], 400), RANDOM.integers(0, 2, (400, 4))])
LABELS = (RANDOM.random(400) < 0.1 + 0.05 * ROWS[:, 0]).astype(float)
TREE = {
    "width": 6, "feature": [0, -1, 1, -1, -1], "threshold": [2.5, 0.0, 55.0, 0.0, 0.0], "left": [1, -1, 3, -1, -1],
    "right": [2, -1, 4, -1, -1], "value": [0.0, -2.0, 0.0, -1.0, 0.25],
}  # fmt: skip
LINEAR = {"intercept": -2.0, "coefficients": [0.3, 0.01, -0.1, 0.2, 0.0, 0.1]}
KINDS: tuple[ScorerKind, ...] = ("lightgbm_text", "tree_arrays", "linear")
GOLDEN: list[dict[str, str | int | None]] = [
    {"number_inpatient": 3, "age": "[40-50)", "insulin": "Up"},
    {"number_inpatient": None, "age": "[60-70)", "insulin": "Sideways"},
]


def _booster() -> Any:
    params = {"objective": "binary", "num_leaves": 7, "verbosity": -1, "num_threads": 1, "min_child_samples": 5}
    return lightgbm.train(params, lightgbm.Dataset(ROWS, LABELS), num_boost_round=10)


BOOSTER = _booster()
MODEL_FILES: dict[ScorerKind, bytes] = {
    "lightgbm_text": BOOSTER.model_to_string().encode(),
    "tree_arrays": json.dumps(TREE).encode(),
    "linear": json.dumps(LINEAR).encode(),
}


def expected_margins(kind: ScorerKind, rows: np.ndarray) -> np.ndarray:
    """What each model file means, computed without the bundle's scorers."""
    if kind == "lightgbm_text":
        return np.asarray(BOOSTER.predict(rows, raw_score=True))
    if kind == "linear":
        return rows @ np.array(LINEAR["coefficients"]) - 2.0
    return np.where(rows[:, 0] <= 2.5, -2.0, np.where(rows[:, 1] <= 55.0, -1.0, 0.25))


def make(kind: ScorerKind, model_file: bytes | None = None, **changes: Any) -> Bundle:
    data = MODEL_FILES[kind] if model_file is None else model_file
    calibration = Platt(a=0.9, b=-0.1)
    encoder = RowEncoder(SPEC)
    margins = expected_margins(kind, np.array([encoder.encode(values) for values in GOLDEN]))
    fields: dict[str, Any] = {
        "family": "a_family", "model_name": "a_model", "scorer": kind,
        "model_sha256": hashlib.sha256(data).hexdigest(), "feature_spec": SPEC, "feature_spec_sha256": SPEC.sha256(),
        "calibration": calibration, "threshold": Threshold(value=0.125, statement="7 to 1"),
        "validation": ValidationScores(
            rows=9, positives=1, auroc=0.6, auroc_low=0.5, auroc_high=0.7, average_precision=0.2, brier=0.1,
            calibration_error=0.0,
        ),
        "lineage": Lineage(
            dataset_version=1, batch=1, batch_sha256=("b" * 64,), content_sha256="c" * 64, schema_sha256="d" * 64,
            code_version="test", libraries={},
        ),
        "synthetic": True,
        "golden": tuple(
            GoldenRow(values=v, risk=1 / (1 + np.exp(-(0.9 * m - 0.1)))) for v, m in zip(GOLDEN, margins, strict=True)
        ),
    }  # fmt: skip
    return pack(Manifest(**{**fields, **changes}), data)


def stored(bundle: Bundle) -> tuple[dict[str, bytes], ArtifactRef]:
    shelf: dict[str, bytes] = {}
    return shelf, write_bundle(shelf.__setitem__, "s3://bucket/bundles", bundle)


def rewritten(bundle: Bundle, edit: Callable[[dict[str, Any]], None]) -> Bundle:
    """The bundle with its manifest edited behind pack's back."""
    manifest = json.loads(bundle.files["bundle.json"])
    edit(manifest)
    return Bundle({**bundle.files, "bundle.json": json.dumps(manifest).encode()})


@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_share_a_model_do_not_get_each_others_risks(kind: ScorerKind) -> None:
    score = load_model(make(kind)).scorer.one
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(score, np.tile(ROWS, (20, 1))))
    assert found == pytest.approx(np.tile(expected_margins(kind, ROWS), 20).tolist(), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_bundle_scores_exactly_as_its_model_did(kind: ScorerKind) -> None:
    shelf, ref = stored(make(kind))
    assert ref.uri == f"s3://bucket/bundles/{ref.sha256}"
    model = load_model(read_bundle(shelf.__getitem__, ref))
    model.check_golden()
    margins = expected_margins(kind, ROWS)
    assert np.abs(model.scorer.many(ROWS) - margins).max() < 1e-12
    assert [model.scorer.one(row) for row in ROWS[:50]] == pytest.approx(margins[:50].tolist(), abs=1e-12)
    assert model.score_matrix(ROWS).tolist() == pytest.approx(
        [model.manifest.calibration.risk(margin) for margin in margins], abs=1e-12
    )
    assert model.sha256 == ref.sha256


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_inputs_give_the_same_digest(kind: ScorerKind) -> None:
    assert make(kind).sha256 == make(kind).sha256


def test_every_single_flipped_byte_is_refused() -> None:
    shelf, ref = stored(make("linear"))
    for uri, data in list(shelf.items()):
        for position in range(len(data)):
            shelf[uri] = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
            with pytest.raises(BundleRefused, match="digest"):
                read_bundle(shelf.__getitem__, ref)
        shelf[uri] = data[:-1]
        with pytest.raises(BundleRefused, match="bytes found"):
            read_bundle(shelf.__getitem__, ref)
        shelf[uri] = data
    read_bundle(shelf.__getitem__, ref)


def test_bytes_moved_from_one_file_to_the_other_are_refused() -> None:
    shelf, ref = stored(make("linear"))
    manifest, model = f"{ref.uri}/bundle.json", f"{ref.uri}/model.txt"
    shelf[model], shelf[manifest] = shelf[model] + shelf[manifest][-1:], shelf[manifest][:-1]
    with pytest.raises(BundleRefused, match="digest"):
        read_bundle(shelf.__getitem__, ref)


def test_a_missing_object_is_the_stores_error() -> None:
    shelf, ref = stored(make("linear"))
    del shelf[f"{ref.uri}/model.txt"]
    with pytest.raises(KeyError):
        read_bundle(shelf.__getitem__, ref)


def test_a_bundle_that_announces_too_much_is_not_even_read() -> None:
    ref = ArtifactRef(uri="s3://bucket/x", sha256="0" * 64, size_bytes=10**9)
    with pytest.raises(BundleRefused, match="at most"):
        read_bundle(lambda _: pytest.fail("read"), ref)


@pytest.mark.parametrize("files", [{}, {"bundle.json"}, {"bundle.json", "model.txt", "extra.py"}])
def test_missing_or_extra_files_are_refused(files: set[str]) -> None:
    with pytest.raises(BundleRefused, match="expected"):
        load_model(Bundle(dict.fromkeys(files, b"{}")))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m.update(format_version=1), "format_version"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.pop("lineage"), "lineage"),
        (lambda m: m["calibration"].update(a=float("nan")), "calibration"),
        (lambda m: m["calibration"].update(a=-1.0), "calibration"),
        (lambda m: m.update(model_sha256="0" * 64), "not the one"),
        (lambda m: m["feature_spec"]["numeric"][0].update(fill=1.0), "does not match its digest"),
        (lambda m: m["golden"][1].update(risk=0.9), "golden row 1"),
    ],
)
def test_a_manifest_that_is_wrong_or_contradicts_itself_is_refused(
    edit: Callable[[dict[str, Any]], None], reason: str
) -> None:
    with pytest.raises(BundleRefused, match=reason):
        load_model(rewritten(make("linear"), edit)).check_golden()


def _loop(tree: dict[str, Any]) -> dict[str, Any]:
    return {**tree, "left": [0, -1, 3, -1, -1]}


@pytest.mark.parametrize(
    ("kind", "model_file"),
    [
        ("linear", b"not json"),
        ("linear", b'{"intercept": NaN, "coefficients": [1,1,1,1,1,1]}'),
        ("linear", b'{"intercept": 0, "coefficients": [1,1,1,1,1,Infinity]}'),
        ("linear", b'{"intercept": 0, "coefficients": [1]}'),
        ("tree_arrays", json.dumps(_loop(TREE)).encode()),
        ("tree_arrays", json.dumps({**TREE, "feature": [6, -1, 1, -1, -1]}).encode()),
        ("tree_arrays", json.dumps({**TREE, "value": [0.0]}).encode()),
        ("lightgbm_text", b"not a model"),
        ("lightgbm_text", b"\xff\xfe"),
        ("lightgbm_text", MODEL_FILES["lightgbm_text"].replace(b"leaf_value=", b"leaf_value=nan ", 1)),
    ],
)
def test_a_model_file_that_is_no_finite_model_of_its_kind_is_refused(kind: ScorerKind, model_file: bytes) -> None:
    with pytest.raises(BundleRefused, match="model"):
        load_model(make(kind, model_file))


@given(margin=st.floats(allow_nan=False, allow_infinity=False), a=st.floats(1e-3, 10), b=st.floats(-10, 10))
def test_a_calibrated_risk_is_always_a_probability(margin: float, a: float, b: float) -> None:
    assert 0.0 <= Platt(a=a, b=b).risk(margin) <= 1.0
