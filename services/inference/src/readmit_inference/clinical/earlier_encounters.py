"""Visits in the year before the stay, and what earlier stays say of it."""

from __future__ import annotations

from datetime import date, timedelta

from readmit_contracts.history import HISTORY
from readmit_inference.clinical.codes import EMERGENCY, INPATIENT, OUTPATIENT, TABLES
from readmit_inference.clinical.elements import Element
from readmit_inference.clinical.reading import Reading
from readmit_inference.clinical.record import encounter_class

_YEAR = timedelta(days=365)
_READMISSION = timedelta(days=30)


def read_earlier_encounters(reading: Reading) -> None:
    """Counts of visits, and the history where an earlier inpatient stay is known."""
    if reading.start is None:
        return
    stay, start = reading.record.stay, reading.start
    earlier = [
        (began, one) for one in reading.record.encounters
        if one.value is not stay.value and (began := one.child("period").date("start")) and began < start
    ]  # fmt: skip
    classes = {id(one.value): encounter_class(one) for _, one in earlier}
    for _, one in earlier:
        if classes[id(one.value)] not in INPATIENT | EMERGENCY | OUTPATIENT:
            reading.findings.warn(f"{one.path}.class", None, "is not of HL7's own classes: the visit is not counted")
    if earlier or "Encounter" in reading.record.known:
        recent = [classes[id(one.value)] for began, one in earlier if began >= start - _YEAR]
        kinds = (("inpatient", INPATIENT), ("emergency", EMERGENCY), ("outpatient", OUTPATIENT))
        for kind, codes in kinds:
            count = sum(class_ in codes for class_ in recent)
            reading.set(f"number_{kind}", count, f"{reading.record.where}.ofType(Encounter)")
    stays = sorted(
        ((began, one) for began, one in earlier if classes[id(one.value)] in INPATIENT), key=lambda one: one[0]
    )
    if stays and HISTORY not in reading.values:
        _history(reading, [*stays, (start, stay)])


def _history(reading: Reading, stays: list[tuple[date, Element]]) -> None:
    """What the inpatient stays before this one say; the last of `stays` is this one."""
    ends = [one.child("period").date("end") for _, one in stays]
    is_return = [
        end is not None and timedelta(0) <= began - end <= _READMISSION
        for end, (began, _) in zip(ends, stays[1:], strict=False)
    ]
    began, previous = stays[-2]
    history: dict[str, object] = {
        "previous_encounters": len(stays) - 1,
        "is_readmission": "Yes" if is_return[-1] else "No",
        "readmissions": sum(is_return),
    }
    if (end := ends[-2]) is not None and end >= began:
        history["previous_time_in_hospital"] = max(1, (end - began).days)
    else:
        # Without its end, whether this stay is a readmission can't be told.
        del history["is_readmission"], history["readmissions"]
    for system, code, *_ in previous.child("hospitalization").child("dischargeDisposition").codings():
        told = TABLES["discharge_disposition_id"].get(system, {}).get(code)
        if told is not None:
            history.setdefault("previous_discharge_disposition_id", told)
    reading.set(HISTORY, history, previous.path)
    reading.places |= {f"{HISTORY}.{key}": previous.path for key in history}
    reading.basis.append(previous)
