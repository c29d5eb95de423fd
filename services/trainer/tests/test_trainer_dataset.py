"""Reading the committed batches with the role's own eyes."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import psycopg
import pytest

from readmit_contracts.encounter import FEATURE_COLUMNS
from readmit_contracts.events import BatchReady
from readmit_contracts.history import HISTORY_KEYS
from readmit_features.frame import encode_frame, fit_spec
from readmit_features.history import with_history
from readmit_trainer.dataset import Reader
from readmit_trainer.errors import BadTrainingData

pytestmark = pytest.mark.stack
Event = Callable[..., BatchReady]


def test_batch_k_brings_the_rows_of_batches_1_to_k_in_order(
    server: str, encounters: pd.DataFrame, make_event: Event
) -> None:
    training = Reader(server).train(make_event(2))
    frame = training.frame
    expected = with_history(encounters[encounters["split"] == "train"].head(8_000).reset_index(drop=True))
    assert frame["encounter_id"].tolist() == expected["encounter_id"].tolist()
    assert frame["readmitted_30d"].tolist() == expected["readmitted_30d"].tolist()
    assert (training.first_batch, len(training.digests)) == (1, 2)
    labels = expected["readmitted_30d"].to_numpy(dtype=bool)
    spec = fit_spec(expected, labels, 50, with_race=True)
    assert fit_spec(frame, labels, 50, with_race=True) == spec
    assert encode_frame(spec, frame).tobytes() == encode_frame(spec, expected).tobytes()


def test_not_measured_is_not_missing(server: str, make_event: Event) -> None:
    frame = Reader(server).train(make_event(1)).frame
    assert "None" in set(frame["a1cresult"])
    assert frame["medical_specialty"].isna().any()
    assert {column.key for column in FEATURE_COLUMNS} <= set(frame.columns)


def test_validation_rows_are_of_other_patients(server: str, make_event: Event) -> None:
    reader = Reader(server)
    train = reader.train(make_event(2)).frame
    assert not set(train["patient_nbr"]) & set(reader.validation(make_event(2))["patient_nbr"])


def test_held_out_rows_that_came_back_as_feedback_are_seen_with_their_batch(server: str, make_event: Event) -> None:
    reader = Reader(server)
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
    everybody = Reader(server).train(make_event(2)).frame
    some = Reader(server, 0.4).train(make_event(2)).frame
    assert 0.3 < len(some) / len(everybody) < 0.5
    left_out = everybody[~everybody["encounter_id"].isin(some["encounter_id"])]
    assert not set(some["patient_nbr"]) & set(left_out["patient_nbr"])
    assert Reader(server, 0.4).train(make_event(2)).frame.equals(some)


@pytest.mark.parametrize("changes", [{"batch_sha256": "0" * 64}, {"dataset_version": 9}, {"batch": 9}])
def test_rows_that_are_not_the_announced_ones_are_refused(
    server: str, make_event: Event, changes: dict[str, object]
) -> None:
    with pytest.raises(BadTrainingData, match="are not there") as refused:
        Reader(server).train(make_event(1, **changes))
    assert refused.value.code == "digest_mismatch"


def test_a_window_trains_on_its_own_batches_and_remembers_the_history_before_them(
    server: str, make_event: Event
) -> None:
    whole = Reader(server).train(make_event(2)).frame
    reader = Reader(server, window=1)
    first = reader.train(make_event(1))
    second = reader.train(make_event(2))
    assert (first.first_batch, second.first_batch, len(second.digests)) == (1, 2, 2)
    assert second.frame["encounter_id"].tolist() == whole["encounter_id"].tolist()[len(first.frame) :]
    expected = whole.tail(len(second.frame)).reset_index(drop=True)
    pd.testing.assert_frame_equal(second.frame[list(HISTORY_KEYS)], expected[list(HISTORY_KEYS)])
    assert Reader(server, window=1).train(make_event(2)).frame.equals(second.frame)
    again = reader.train(make_event(1))
    pd.testing.assert_frame_equal(again.frame, first.frame)


def test_what_comes_after_a_batch_is_read_with_the_history_before_it(server: str, make_event: Event) -> None:
    reader = Reader(server)
    later = reader.train(make_event(2), after=1)
    whole = reader.train(make_event(2))
    assert (later.first_batch, whole.first_batch) == (2, 1)
    assert later.frame.equals(whole.frame.tail(len(later.frame)).reset_index(drop=True))


def test_a_row_that_was_changed_is_noticed_by_the_digest(server: str, make_event: Event) -> None:
    change = "UPDATE clean_data.diabetes_train SET num_medications = num_medications + %s WHERE encounter_id ="
    one = " (SELECT min(encounter_id) FROM clean_data.diabetes_train WHERE batch_id = 2)"
    Reader(server).train(make_event(2))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute((change + one).encode(), (1,))
        try:
            with pytest.raises(BadTrainingData, match=r"batch 2 .* have been changed") as refused:
                Reader(server).train(make_event(2))
        finally:
            connection.execute((change + one).encode(), (-1,))
    assert refused.value.code == "digest_mismatch"
    Reader(server).train(make_event(2))


def test_a_column_that_is_missing_is_named(server: str, make_event: Event) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("ALTER TABLE clean_data.diabetes_train RENAME COLUMN insulin TO insulina")
        try:
            with pytest.raises(BadTrainingData, match="insulin") as refused:
                Reader(server).train(make_event(1))
        finally:
            connection.execute("ALTER TABLE clean_data.diabetes_train RENAME COLUMN insulina TO insulin")
    assert refused.value.code == "missing_column"
