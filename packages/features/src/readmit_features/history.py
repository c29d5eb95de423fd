"""The history of each encounter, derived from a table of encounters. pandas (an extra): serving never imports this.

Point-in-time: an encounter sees the patient's encounters before it, in the order of `encounter_id`. That an earlier one
was followed by a readmission within 30 days is all that is used of its outcome: that much is known once the readmission
has begun, whereas "later" or "never" are not.
"""

from __future__ import annotations

import hashlib

import pandas as pd

from readmit_contracts.history import HISTORY_KEYS, INPUTS_BY_KEY

#: What `with_history` reads of an encounter.
READ = (
    "encounter_id", "patient_nbr", "readmitted_30d", "time_in_hospital", "number_inpatient",
    "discharge_disposition_id", "diag_1",
)  # fmt: skip
_PREVIOUS = ("time_in_hospital", "number_inpatient", "discharge_disposition_id", "diag_1")


def with_history(frame: pd.DataFrame, earlier: pd.DataFrame | None = None) -> pd.DataFrame:
    """The frame with a column per `HISTORY_KEYS`, its rows in the same order.

    `frame` has a row per encounter: the columns `READ`, `readmitted_30d` being a bool. `earlier` holds encounters that
    are not in the frame but count as history (older batches outside a window), with the columns `READ`.
    """
    every = frame[list(READ)]
    if earlier is not None and len(earlier):
        every = pd.concat([earlier[list(READ)], every], ignore_index=True)
    every = every.sort_values("encounter_id", kind="stable")
    of_patient = every.groupby("patient_nbr", sort=False)
    before = of_patient.shift(1)
    event = every["readmitted_30d"].astype("int64")
    # The label of the previous encounter says that this one began within 30 days.
    followed = event.groupby(every["patient_nbr"], sort=False)
    derived = pd.DataFrame(
        {
            "previous_encounters": of_patient.cumcount().astype("Int64"),
            "is_readmission": followed.shift(1, fill_value=0).map({0: "No", 1: "Yes"}).astype("object"),
            "readmissions": (followed.cumsum() - event).astype("Int64"),
            **{f"previous_{column}": before[column] for column in _PREVIOUS},
        },
        index=every.index,
    )
    for key in HISTORY_KEYS:
        if INPUTS_BY_KEY[key].is_number:
            derived[key] = derived[key].astype("Int64")
        else:
            derived[key] = derived[key].astype("object").where(derived[key].notna(), None)
    own = derived.sort_index().tail(len(frame))
    return frame.assign(**{key: own[key].array for key in HISTORY_KEYS})


def hide_history(frame: pd.DataFrame, share: float) -> pd.DataFrame:
    """The frame without the history of a share of its patients, always the same ones.

    A model that never saw an encounter of unknown history would take every such encounter for a first one.
    """
    hidden = frame["patient_nbr"].map({p: _place(p) < share for p in frame["patient_nbr"].unique().tolist()})
    return frame.assign(**{key: frame[key].mask(hidden) for key in HISTORY_KEYS})


def without_history(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as it is where nobody's history is known."""
    return frame.drop(columns=list(HISTORY_KEYS), errors="ignore")


def _place(patient: int) -> float:
    """A number in [0, 1) that is always the same for a patient."""
    digest = hashlib.blake2b(str(patient).encode(), digest_size=8, person=b"readmit-history").digest()
    return int.from_bytes(digest, "big") / 2**64
