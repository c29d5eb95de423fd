"""From FHIR resources to the fields of `/predict`: every row of the table in docs/clinical.md, there and back."""

from __future__ import annotations

import copy
from datetime import date
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from readmit_contracts.encounter import BY_KEY, DRUG_KEYS, example_encounter
from readmit_features.cleaning import clean_encounter
from readmit_inference.clinical.codes import BY_ATC, BY_RXNORM, DRUGS, NOT_AVAILABLE, NOT_MAPPED, OURS, PAYERS, TABLES
from readmit_inference.clinical.example import example_bundle
from readmit_inference.clinical.mapping import Mapped
from readmit_inference.clinical.risk_assessment import read_bundle
from readmit_inference.errors import InvalidEncounter

from .fhir_writer import ENCOUNTER, PATIENT, START, bundle, concept, resources_of

TODAY = date(2024, 5, 20)


def plain() -> dict[str, Any]:
    """An encounter by key, small enough to be written as resources."""
    counts = {"num_lab_procedures": 2, "num_procedures": 1, "num_medications": 3, "number_diagnoses": 3}
    return clean_encounter(example_encounter() | counts).values | {"weight": None}


def resources(**changed: Any) -> list[dict[str, Any]]:
    """The resources of that encounter, by `Type/id`; `changed` are fields of it."""
    return copy.deepcopy(resources_of(plain() | changed))


def find(sent: list[dict[str, Any]], reference: str) -> dict[str, Any]:
    type_, _, id_ = reference.partition("/")
    (found,) = (one for one in sent if (one["resourceType"], one["id"]) == (type_, id_))
    return found


def read(sent: list[dict[str, Any]]) -> Mapped:
    return read_bundle(bundle(sent), TODAY)


def errors(mapped: Mapped) -> dict[str, str]:
    return {error.field: error.problem for error in mapped.errors}


def warnings(mapped: Mapped) -> dict[str, str]:
    return {warning.field: warning.message for warning in mapped.warnings}


def extension(name: str, **value: Any) -> dict[str, Any]:
    return {"url": f"{OURS}{name}", **value}


@st.composite
def encounters(draw: st.DrawFn) -> dict[str, Any]:
    """Encounters whose fields agree with each other, in every closed value and code."""
    encounter = plain()
    doses = {key: draw(st.sampled_from(("No", "No", "No", "Steady", "Up", "Down"))) for key in DRUG_KEYS}
    drugs = {key for key, dose in doses.items() if dose != "No"}
    codes = draw(
        st.lists(st.sampled_from(("428", "250.83", "V27", "E849", "008.45")), min_size=1, max_size=3, unique=True)
    )
    measured = {key: draw(st.sampled_from(BY_KEY[key].allowed)) for key in ("max_glu_serum", "a1cresult")}
    tests = sum(value != "None" for value in measured.values())
    picked = {column: draw(st.sampled_from(sorted(code for code in BY_KEY[column].labels))) for column in TABLES}
    closed = {column: draw(st.sampled_from(BY_KEY[column].allowed)) for column in ("gender", "age", "payer_code")}
    return encounter | doses | measured | picked | closed | {
        "race": draw(st.sampled_from((*BY_KEY["race"].allowed, None))),
        "medical_specialty": draw(st.sampled_from(BY_KEY["medical_specialty"].allowed)),
        **{f"diag_{n + 1}": codes[n] if n < len(codes) else None for n in range(3)},
        "number_diagnoses": draw(st.integers(len(codes), 9)),
        "num_lab_procedures": draw(st.integers(max(1, tests), 9)),
        "num_procedures": draw(st.integers(1, 6)),
        "num_medications": draw(st.integers(max(1, len(drugs)), 30)),
        "time_in_hospital": draw(st.integers(1, 14)),
        "number_inpatient": draw(st.integers(0, 5)),
        "number_emergency": draw(st.integers(0, 5)),
        "number_outpatient": draw(st.integers(0, 5)),
        "diabetesmed": "Yes" if drugs else "No",
        "change": "Ch" if {"Up", "Down"} & set(doses.values()) else "No",
        "encounter_id": draw(st.integers(1, 2**53)),
        "patient_nbr": draw(st.integers(1, 2**53)),
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(encounter=encounters())
def test_an_encounter_written_as_fhir_is_read_as_it_was(encounter: dict[str, Any]) -> None:
    sent = bundle(resources_of(encounter))
    Bundle.model_validate(sent)
    mapped = read_bundle(sent, TODAY)
    assert mapped.errors == []
    cleaned = clean_encounter(mapped.encounter)
    assert cleaned.errors == []
    assert cleaned.values == clean_encounter(encounter).values


def test_the_documented_example_is_the_contracts_example() -> None:
    Bundle.model_validate(example_bundle())
    mapped = read_bundle(example_bundle(), TODAY)
    assert (mapped.errors, mapped.warnings) == ([], [])
    assert clean_encounter(mapped.encounter).values == clean_encounter(example_encounter()).values


def test_every_code_of_every_system_is_a_code_of_the_data_set() -> None:
    for column, systems in TABLES.items():
        for table in systems.values():
            assert set(table.values()) <= set(BY_KEY[column].labels)
        assert set(systems[f"{OURS}{column}"].values()) == set(BY_KEY[column].labels)
        assert {NOT_AVAILABLE[column], NOT_MAPPED[column]} <= set(BY_KEY[column].unknown_values)
    assert {BY_KEY[drug.replace("-", "_")].name for drug in DRUGS} == {BY_KEY[key].name for key in DRUG_KEYS}
    assert {*BY_RXNORM.values(), *BY_ATC.values()} <= DRUGS
    assert {payer for payers in PAYERS.values() for payer in payers.values()} <= set(BY_KEY["payer_code"].allowed)


def test_an_extension_of_the_encounter_goes_before_what_would_be_derived() -> None:
    sent = resources()
    find(sent, "Encounter/e")["extension"] = [
        extension("num_lab_procedures", valueInteger=41),
        extension("A1Cresult", valueCode=">8"),
        extension("history", extension=[{"url": "previous_encounters", "valueInteger": 4}]),
        extension("shoe_size", valueInteger=43),
        extension("readmitted", valueString="<30"),
        {"url": "https://elsewhere.example/num_lab_procedures", "valueInteger": 1},
    ]
    mapped = read(sent)
    assert mapped.encounter["num_lab_procedures"] == 41
    assert mapped.encounter["A1Cresult"] == ">8"
    assert mapped.encounter["history"] == {"previous_encounters": 4}
    assert mapped.place("num_lab_procedures") == "Bundle.entry[1].resource.extension[0].value"
    assert mapped.place("history.previous_encounters") == "Bundle.entry[1].resource.extension[2].extension[0].value"
    assert set(warnings(mapped)) == {f"Bundle.entry[1].resource.extension[{n}].url" for n in (3, 4)}


@pytest.mark.parametrize(
    ("type_", "columns"),
    [
        ("Procedure", {"num_procedures"}),
        ("Observation", {"num_lab_procedures"}),
        ("MedicationRequest", {"num_medications", "diabetesMed", "change"}),
        ("Condition", {"diag_1", "number_diagnoses"}),
    ],
)
def test_of_what_no_resource_came_nothing_is_taken_to_be_zero(type_: str, columns: set[str]) -> None:
    mapped = read([one for one in resources() if one["resourceType"] != type_])
    missing = {error.field for error in clean_encounter(mapped.encounter).errors}
    assert missing == columns
    assert all(type_ in mapped.place(column) for column in columns)


def test_without_earlier_encounters_the_visits_are_unknown_and_so_is_the_history() -> None:
    mapped = read([one for one in resources() if one["id"] == "e" or one["resourceType"] != "Encounter"])
    assert {e.field for e in clean_encounter(mapped.encounter).errors} == {
        "number_outpatient", "number_emergency", "number_inpatient",
    }  # fmt: skip
    assert "history" not in mapped.encounter


def test_an_earlier_inpatient_stay_is_the_history() -> None:
    sent = resources(number_inpatient=2)
    previous = find(sent, "Encounter/v1")
    previous["period"] = {"start": "2024-04-10", "end": "2024-04-20"}
    previous["hospitalization"] = {
        "dischargeDisposition": concept("https://www.nubc.org/CodeSystem/PatDischargeStatus", "06")
    }
    find(sent, "Encounter/v2")["period"] = {"start": "2024-03-01", "end": "2024-03-20"}
    assert read(sent).encounter["history"] == {
        "previous_encounters": 2, "is_readmission": "Yes", "readmissions": 2, "previous_time_in_hospital": 10,
        "previous_discharge_disposition_id": 6,
    }  # fmt: skip
    del previous["period"]["end"]
    assert "is_readmission" not in read(sent).encounter["history"]  # type: ignore[operator]


def test_the_newest_encounter_is_the_stay_and_two_as_new_are_refused() -> None:
    sent = resources()
    assert read(sent).stay == "Encounter/e"
    find(sent, "Encounter/v0")["period"] = {"start": START.isoformat()}
    assert "Bundle.entry.resource.ofType(Encounter)" in errors(read(sent))


@pytest.mark.parametrize("code", ["AMB", "EMER", "HH"])
def test_what_is_no_inpatient_stay_is_refused(code: str) -> None:
    sent = resources()
    find(sent, "Encounter/e")["class"]["code"] = code
    assert errors(read(sent)) == {"Bundle.entry[1].resource.class.code": "is no inpatient stay"}


def test_a_class_of_the_hospitals_own_is_taken_with_a_warning() -> None:
    sent = resources()
    find(sent, "Encounter/e")["class"] = {"system": "urn:oid:1.2.3", "code": "13"}
    mapped = read(sent)
    assert mapped.errors == []
    assert "Bundle.entry[1].resource.class" in warnings(mapped)


@pytest.mark.parametrize("column", list(TABLES))
def test_a_code_is_read_or_refused_or_not_mapped_or_not_available(column: str) -> None:
    def coded(value: dict[str, Any] | None) -> Mapped:
        sent = resources()
        stay = find(sent, "Encounter/e")
        holder, name = {
            "admission_type_id": (stay, "priority"),
            "admission_source_id": (stay["hospitalization"], "admitSource"),
            "discharge_disposition_id": (stay["hospitalization"], "dischargeDisposition"),
        }[column]
        if value is None:
            del holder[name]
        else:
            holder[name] = value
        return read(sent)

    for system, table in TABLES[column].items():
        for code, ours in table.items():
            assert coded(concept(system, code)).encounter[column] == ours
        (refused,) = coded(concept(system, "nonsense")).errors
        assert refused.field.endswith(".coding[0].code")
        assert refused.value == "nonsense"
    foreign = coded(concept("https://hospital.example/codes", "1"))
    assert (foreign.encounter[column], len(foreign.warnings)) == (NOT_MAPPED[column], 1)
    absent = coded(None)
    assert (absent.encounter[column], len(absent.warnings)) == (NOT_AVAILABLE[column], 1)


@pytest.mark.parametrize("code", ["11", "13"])
def test_a_discharge_after_which_nobody_comes_back_is_warned_about(code: str) -> None:
    sent = resources()
    stay = find(sent, "Encounter/e")
    stay["hospitalization"]["dischargeDisposition"] = concept(f"{OURS}discharge_disposition_id", code)
    assert any("nobody is readmitted" in message for message in warnings(read(sent)).values())


@pytest.mark.parametrize(
    ("stay", "days"),
    [
        ({"length": {"value": 3, "code": "d"}}, 3),
        ({"length": {"value": 50, "code": "h"}}, 2),
        ({"length": {"value": 5, "code": "min"}}, 1),
        ({"period": {"start": "2024-05-17T23:50:00Z", "end": "2024-05-18T00:10:00Z"}}, 1),
        ({"period": {"start": "2024-05-17", "end": "2024-05-17"}}, 1),
        ({"period": {"start": "2024-05-17"}}, 3),  # until today
    ],
)
def test_the_length_of_the_stay(stay: dict[str, Any], days: int) -> None:
    sent = resources()
    find(sent, "Encounter/e").update(stay)
    mapped = read(sent)
    assert mapped.encounter["time_in_hospital"] == days
    assert ("Bundle.entry[1].resource.period.end" in warnings(mapped)) == ("end" not in stay.get("period", {"end": 0}))


@pytest.mark.parametrize(
    ("born", "band"),
    [
        ("1954-05-17", "[70-80)"), ("1954-05-18", "[60-70)"), ("1954", "[60-70)"), ("1950-03", "[70-80)"),
        ("1920-01-01", "[90-100)"), ("2024-05-01", "[0-10)"),
    ],
)  # fmt: skip
def test_the_age_is_that_at_admission(born: str, band: str) -> None:
    sent = resources()
    find(sent, "Patient/p")["birthDate"] = born
    mapped = read(sent)
    assert mapped.encounter["age"] == band
    assert ("Bundle.entry[0].resource.birthDate" in warnings(mapped)) == (born < "1924")


@pytest.mark.parametrize("born", ["2025-01-01", "1954-13-01", "17/05/1954", "0001-01-01", "9999-12-31", 1954])
def test_a_birth_date_that_cannot_be_is_refused(born: Any) -> None:
    sent = resources()
    find(sent, "Patient/p")["birthDate"] = born
    assert "Bundle.entry[0].resource.birthDate" in errors(read(sent))


def test_a_resource_of_another_patient_is_refused() -> None:
    sent = resources()
    find(sent, "Observation/o0")["subject"] = {"reference": "https://fhir.example/Patient/q"}
    (error,) = read(sent).errors
    assert (error.field.endswith("subject.reference"), error.problem) == (True, "is another patient")


def test_what_belongs_to_another_encounter_is_not_counted() -> None:
    sent = resources(num_lab_procedures=2, num_procedures=2)
    find(sent, "Observation/o1")["encounter"] = {"reference": "Encounter/v0"}
    late = find(sent, "Procedure/r1")
    del late["encounter"]
    late["performedPeriod"] = {"start": "2023-05-17"}
    mapped = read(sent)
    assert (mapped.encounter["num_lab_procedures"], mapped.encounter["num_procedures"]) == (1, 1)


def test_what_was_never_done_or_is_sent_twice_is_not_counted() -> None:
    sent = resources(num_procedures=3)
    find(sent, "Procedure/r1")["status"] = "not-done"
    assert read([*sent, find(sent, "Procedure/r0")]).encounter["num_procedures"] == 2


@pytest.mark.parametrize(
    ("code", "value", "unit", "column", "band"),
    [
        ("2345-7", 200, "mg/dL", "max_glu_serum", "Norm"),
        ("2345-7", 200.5, "mg/dL", "max_glu_serum", ">200"),
        ("14749-6", 16.7, "mmol/L", "max_glu_serum", ">300"),
        ("4548-4", 7.0, "%", "A1Cresult", "Norm"),
        ("4548-4", 7.1, "%", "A1Cresult", ">7"),
        ("59261-8", 65, "mmol/mol", "A1Cresult", ">8"),
    ],
)
def test_the_highest_value_of_the_stay_is_the_test(code: str, value: float, unit: str, column: str, band: str) -> None:
    sent = resources(max_glu_serum="Norm", a1cresult="Norm")
    find(sent, "Observation/o0" if column == "max_glu_serum" else "Observation/o1").update(
        code=concept("http://loinc.org", code), valueQuantity={"value": value, "unit": unit}
    )
    assert read(sent).encounter[column] == band


def test_a_value_in_no_unit_of_the_test_is_refused() -> None:
    sent = resources()
    find(sent, "Observation/o0")["valueQuantity"] = {"value": 9, "unit": "g/L"}
    (error,) = read(sent).errors
    assert error.field.endswith(".resource.value.code")


@pytest.mark.parametrize(
    ("medication", "drugs"),
    [
        (concept("http://www.nlm.nih.gov/research/umls/rxnorm", "4815"), {"glyburide"}),
        (concept("http://www.whocc.no/atc", "A10AE04"), {"insulin"}),
        (concept("http://www.whocc.no/atc", "A10BD05"), {"metformin-pioglitazone"}),
        (concept(f"{OURS}drug", "citoglipton"), {"citoglipton"}),
        ({"text": "Metformina 850 mg comprimidos"}, {"metformin"}),
        ({"text": "GLIBENCLAMIDE 5 mg"}, {"glyburide"}),
        ({"text": "glyburide 2.5 MG / metformin hydrochloride 500 MG Oral Tablet"}, {"glyburide-metformin"}),
        ({"text": "Insulina glargina"}, {"insulin"}),
        ({"text": "sitagliptin 50 MG / metformin 500 MG"}, {"metformin"}),
        ({"text": "aspirin"}, set()),
        (concept("http://www.whocc.no/atc", "A10BH01"), set()),
    ],
)
def test_a_drug_is_known_by_code_or_name(medication: dict[str, Any], drugs: set[str]) -> None:
    sent = resources(insulin="No", num_medications=1)
    find(sent, "MedicationRequest/m0")["medicationCodeableConcept"] = medication
    mapped = read(sent)
    assert {drug for drug in DRUGS if drug in mapped.encounter} == drugs
    is_atc = medication.get("coding", [{}])[0].get("code", "").startswith("A10")
    assert mapped.encounter["diabetesMed"] == ("Yes" if drugs or is_atc else "No")


def test_a_medication_by_reference_is_looked_up_contained_or_in_the_bundle() -> None:
    sent = resources(insulin="No", num_medications=2)
    contained, referred = find(sent, "MedicationRequest/m0"), find(sent, "MedicationRequest/m1")
    for request in (contained, referred):
        del request["medicationCodeableConcept"]
    contained["contained"] = [{"resourceType": "Medication", "id": "x", "code": {"text": "glipizide"}}]
    contained["medicationReference"] = {"reference": "#x"}
    referred["medicationReference"] = {"reference": "Medication/y"}
    mapped = read([*sent, {"resourceType": "Medication", "id": "y", "code": {"text": "acarbose"}}])
    assert (mapped.encounter["glipizide"], mapped.encounter["acarbose"]) == ("Steady", "Steady")
    nameless = read(sent)
    assert "acarbose" not in nameless.encounter
    assert any("has no name" in message for message in warnings(nameless).values())


@pytest.mark.parametrize(("before", "now", "change"), [(10, 12, "Up"), (12, 10, "Down"), (10, 10, "Steady")])
def test_the_dose_is_compared_with_the_prior_prescription(before: int, now: int, change: str) -> None:
    sent = resources(insulin="Up")
    for id_, dose in (("insulin-before", before), ("insulin", now)):
        instruction = find(sent, f"MedicationRequest/{id_}")["dosageInstruction"][0]
        instruction["doseAndRate"][0]["doseQuantity"]["value"] = dose
    mapped = read(sent)
    assert (mapped.encounter["insulin"], mapped.warnings) == (change, [])
    assert mapped.encounter["change"] == ("No" if change == "Steady" else "Ch")


def test_twice_the_dose_half_as_often_is_no_change() -> None:
    sent = resources(insulin="Up")
    now = find(sent, "MedicationRequest/insulin")["dosageInstruction"][0]
    now["doseAndRate"][0]["doseQuantity"]["value"] = 20
    now["timing"]["repeat"]["frequency"] = 1
    assert read(sent).encounter["insulin"] == "Steady"


def test_a_dose_that_cannot_be_compared_is_steady_with_a_warning_and_may_be_told() -> None:
    sent = resources(insulin="Up")
    request = find(sent, "MedicationRequest/insulin")
    request["dosageInstruction"][0]["doseAndRate"][0]["doseQuantity"]["unit"] = "mL"
    mapped = read(sent)
    assert mapped.encounter["insulin"] == "Steady"
    assert any("can't be compared" in message for message in warnings(mapped).values())
    request["extension"] = [extension("dose_change", valueCode="up")]
    assert read(sent).encounter["insulin"] == "Up"
    request["extension"] = [extension("dose_change", valueCode="sideways")]
    assert list(errors(read(sent)).values()) == ["is not a change"]


def test_a_drug_that_was_stopped_is_a_change() -> None:
    sent = resources(insulin="Steady")
    assert read(sent).encounter["change"] == "No"
    find(sent, "MedicationRequest/insulin")["status"] = "stopped"
    assert read(sent).encounter["change"] == "Ch"


def test_a_primary_diagnosis_without_icd9_is_refused_and_a_secondary_one_is_warned_about() -> None:
    sent = resources()
    find(sent, "Condition/c1")["code"] = concept("http://hl7.org/fhir/sid/icd-10-cm", "E11.9")
    mapped = read(sent)
    assert (mapped.encounter["diag_1"], mapped.encounter["diag_2"], mapped.encounter["number_diagnoses"]) == (
        "428", "401", 3,
    )  # fmt: skip
    assert mapped.errors == []
    assert any("no ICD-9-CM code" in message for message in warnings(mapped).values())
    find(sent, "Condition/c0")["code"] = concept("http://hl7.org/fhir/sid/icd-10-cm", "I50.9")
    (error,) = read(sent).errors
    assert error.field.endswith(".resource.code")
    assert "ICD-9-CM" in error.problem


def test_a_diagnosis_may_be_written_without_its_point_and_refuted_ones_are_left_out() -> None:
    sent = resources()
    find(sent, "Condition/c0")["code"] = concept("http://hl7.org/fhir/sid/icd-9-cm", "25083")
    find(sent, "Condition/c1")["verificationStatus"] = concept("http://example.org", "refuted")
    mapped = read(sent)
    assert (mapped.encounter["diag_1"], mapped.encounter["diag_2"]) == ("250.83", "401")


def test_a_bundle_by_full_urls_needs_no_ids() -> None:
    sent = bundle(resources())
    named = {f"{e['resource']['resourceType']}/{e['resource'].pop('id')}": n for n, e in enumerate(sent["entry"])}

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: f"urn:uuid:{named[v]:032d}" if k == "reference" else renamed(v) for k, v in value.items()}
        return [renamed(one) for one in value] if isinstance(value, list) else value

    sent = renamed(sent)
    for n, entry in enumerate(sent["entry"]):
        entry["fullUrl"] = f"urn:uuid:{n:032d}"
    mapped = read_bundle(sent, TODAY)
    assert mapped.errors == []
    assert mapped.encounter == read(resources()).encounter
    assert mapped.patient == f"urn:uuid:{0:032d}"
    assert PATIENT["reference"] != mapped.patient != ENCOUNTER["reference"]


def test_more_elements_than_a_stay_can_have_are_refused_quickly() -> None:
    with pytest.raises(InvalidEncounter) as refused:
        read([{"resourceType": "Observation"}] * 2001)
    assert [(error.field, error.problem) for error in refused.value.errors] == [
        ("Bundle.entry", "has too many elements")
    ]
    deep = [{"resourceType": "Observation", "category": [{"coding": [{}] * 300}]}] * 200
    assert "is too much" in errors(read([*resources(), *deep])).values()


def test_a_full_url_that_is_no_address_is_refused() -> None:
    sent = bundle(resources())
    sent["entry"][0]["fullUrl"] = "not an address"
    assert errors(read_bundle(sent, TODAY)) == {"Bundle.entry[0].fullUrl": "is not an absolute URI"}


def test_what_is_said_of_a_request_is_bounded() -> None:
    mapped = read([*resources(), *({"resourceType": "Observation", "status": n} for n in range(1000))])
    assert len(mapped.errors) == 50
