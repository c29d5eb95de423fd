"""Reading the committed batches with the role's own eyes."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import psycopg
import pytest

from readmit_contracts.encounter import FEATURE_COLUMNS
from readmit_contracts.events import BatchReady
from readmit_features.frame import encode_frame, fit_spec
from readmit_trainer.dataset import Reader
from readmit_trainer.errors import BadTrainingData

pytestmark = pytest.mark.stack
Event = Callable[..., BatchReady]


def test_batch_k_brings_the_rows_of_batches_1_to_k_in_order(
    server: str, encounters: pd.DataFrame, make_event: Event
) -> None:
    frame, digests = Reader(server, 1.0).train(make_event(2))
    expected = encounters[encounters["split"] == "train"].head(8_000).reset_index(drop=True)
    assert frame["encounter_id"].tolist() == expected["encounter_id"].tolist()
    assert frame["readmitted_30d"].tolist() == expected["readmitted_30d"].tolist()
    assert len(digests) == 2
    spec = fit_spec(expected, 50)
    assert fit_spec(frame, 50) == spec
    assert encode_frame(spec, frame).tobytes() == encode_frame(spec, expected).tobytes()


def test_not_measured_is_not_missing(server: str, make_event: Event) -> None:
    frame, _ = Reader(server, 1.0).train(make_event(1))
    assert "None" in set(frame["a1cresult"])
    assert frame["medical_specialty"].isna().any()
    assert {column.key for column in FEATURE_COLUMNS} <= set(frame.columns)


def test_validation_rows_are_of_other_patients(server: str, make_event: Event) -> None:
    reader = Reader(server, 1.0)
    train, _ = reader.train(make_event(2))
    assert not set(train["patient_nbr"]) & set(reader.validation(make_event(2))["patient_nbr"])


def test_held_out_rows_that_came_back_as_feedback_are_seen_with_their_batch(server: str, make_event: Event) -> None:
    reader = Reader(server, 1.0)
    before = len(reader.validation(make_event(2)))
    one = "SELECT * FROM clean_data.diabetes_validation LIMIT 1"
    with psycopg.connect(server) as connection:
        connection.execute(f"INSERT INTO clean_data.diabetes_validation {one}".encode())
        connection.commit()
        try:
            assert len(reader.validation(make_event(2))) == before
            assert len(reader.validation(make_event(2, batches_total=6))) == before + 1
        finally:
            connection.execute(
                "DELETE FROM clean_data.diabetes_validation AS v USING (SELECT max(ctid) AS last"
                " FROM clean_data.diabetes_validation) AS added WHERE v.ctid = added.last"
            )


def test_a_sample_keeps_whole_patients_and_always_the_same(server: str, make_event: Event) -> None:
    everybody, _ = Reader(server, 1.0).train(make_event(2))
    some, _ = Reader(server, 0.4).train(make_event(2))
    assert 0.3 < len(some) / len(everybody) < 0.5
    left_out = everybody[~everybody["encounter_id"].isin(some["encounter_id"])]
    assert not set(some["patient_nbr"]) & set(left_out["patient_nbr"])
    assert Reader(server, 0.4).train(make_event(2))[0].equals(some)


@pytest.mark.parametrize("changes", [{"batch_sha256": "0" * 64}, {"dataset_version": 9}, {"batch": 9}])
def test_rows_that_are_not_the_announced_ones_are_refused(
    server: str, make_event: Event, changes: dict[str, object]
) -> None:
    with pytest.raises(BadTrainingData, match="are not there"):
        Reader(server, 1.0).train(make_event(1, **changes))
