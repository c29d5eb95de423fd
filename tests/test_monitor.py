"""What is served is collected and watched: every answer becomes a row, and other patients than trained on are drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import cycle
from typing import Any

import httpx
import numpy as np
import pytest

from readmit_contracts.encounter import COLUMNS, NOT_READMITTABLE, example_encounter
from readmit_features.synthetic import sample_columns

from .conftest import Platform, running_platform

pytestmark = [pytest.mark.stack, pytest.mark.timeout(420)]

Encounter = dict[str, Any]
#: Smaller than usual: the embedded broker commits some twenty messages a second.
_WINDOW_ROWS = 800


@pytest.fixture(scope="module", params=["embedded", "apache"])
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """A platform of our own: what other tests ask for would fill the window, and the reference of the risk."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MONITOR_WINDOW_ROWS", str(_WINDOW_ROWS))
        with running_platform(request.param, "--source", "sample:20000") as running:
            yield running


def patients(count: int, seed: int) -> list[Encounter]:
    """Encounters of the population that the platform was trained on, as a client would post them."""
    cells = sample_columns(2 * count, seed=seed)
    names = [column.name for column in COLUMNS if column.name != "readmitted"]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*(cells[name] for name in names), strict=True)]
    readmittable = [row for row in rows if int(row["discharge_disposition_id"]) not in NOT_READMITTABLE]
    order = np.random.default_rng(seed).permutation(len(readmittable))
    return [readmittable[place] for place in order[:count]]


def post(platform: Platform, encounters: Sequence[Encounter]) -> list[str]:
    """Ask both pods in turns; the ids of the predictions."""
    made = []
    with httpx.Client(timeout=30) as client:
        for encounter, url in zip(encounters, cycle(platform.stack["urls"]["inference"])):
            answer = client.post(f"{url}/predict", json=encounter)
            assert answer.status_code == 200, answer.text
            made.append(answer.json()["prediction_id"])
    return made


def test_every_answer_becomes_a_row_of_raw_data_without_a_patients_number(platform: Platform) -> None:
    marked = example_encounter() | {"encounter_id": 271828182845, "patient_nbr": 314159265358}
    made = post(platform, [marked] * 50)
    newest = """
        SELECT prediction_id::text, to_jsonb(p)::text, features FROM raw_data.predictions p
        ORDER BY stored_at DESC LIMIT 500
    """

    def rows() -> list[tuple[Any, ...]] | None:
        found = [row for row in platform.sql("readmit_ingestor", newest) if row[0] in made]
        return found if len(found) == len(made) else None

    for _, text, features in platform.wait(rows, "rows of the predictions", timeout_s=60):
        assert "271828182845" not in text
        assert "314159265358" not in text
        assert features["payer_code"] == marked["payer_code"]


def test_patients_like_those_trained_on_are_stable_and_others_are_drift(platform: Platform) -> None:
    def drift(state: str, since: datetime) -> dict[str, Any] | None:
        seen: dict[str, Any] = platform.get("monitor", "/drift")
        fresh = seen["state"] == state and datetime.fromisoformat(seen["window_from"]) >= since
        return seen if fresh else None

    began = datetime.now(UTC)
    post(platform, patients(_WINDOW_ROWS + 100, seed=23))
    stable = platform.wait(lambda: drift("stable", began), "stable window of usual patients", timeout_s=200)
    assert stable["window_rows"] == _WINDOW_ROWS
    assert stable["reference_rows"] > 10_000
    assert stable["synthetic"]
    before = metric(platform, "drift_detected_total")

    post(platform, [patient | {"payer_code": "Planted"} for patient in patients(300, seed=29)])
    drifted = platform.wait(lambda: drift("drifted", began), "drift", timeout_s=150)
    assert [figure["feature"] for figure in drifted["figures"] if figure["drifted"]] == ["payer_code"]
    # The state and its event are one transaction; the counter and the gauges follow at once.
    platform.wait(lambda: metric(platform, "drift_detected_total") == before + 1, "the counted event", timeout_s=30)
    psi = metric(platform, 'drift_psi{feature="payer_code"}')
    assert psi > metric(platform, "drift_threshold_psi")
    summary = platform.get("monitor", "/predictions/summary")
    assert summary["rows"] == _WINDOW_ROWS
    assert 0 < summary["models"][0]["risk_mean"] < 1


def metric(platform: Platform, sample: str) -> float:
    """One sample of the monitor's metrics."""
    text = httpx.get(f"{platform.stack['urls']['monitor']}/metrics", timeout=10).text
    [line] = [line for line in text.splitlines() if line.startswith(f"{sample} ")]
    return float(line.rpartition(" ")[2])
