"""Every word on the page, one `Texts` per language. Spanish stands in `spanish.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from readmit_contracts.encounter import AGE_BANDS, BY_KEY, Column, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """One language. Placeholders in braces are filled in by `rendering` and `tables`."""

    language: str
    name: str
    title: str
    subtitle: str
    not_clinical: str
    synthetic_banner: str
    tab_patient: str
    tab_loop: str
    groups: Mapping[Group, str]
    history_note: str
    labels: Mapping[str, str]
    hints: Mapping[str, str]
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    codes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    other_drugs: str
    unknown: str
    button: str
    empty_result: str
    risk: str
    threshold: str
    verdict_high: str
    verdict_low: str
    answered_by: str
    serving_now: str
    version: str
    epoch: str
    digest: str
    families: Mapping[str, str]
    warnings: str
    warning_capped: str
    warning_unseen: str
    reasons: str
    reasons_note: str
    other_fields: str
    counted: Mapping[str, str]
    troubles: Mapping[str, tuple[str, str]]
    field_missing: str
    field_wrong: str
    allowed_number: str
    allowed_codes: str
    allowed_values: str
    allowed_text: str
    allowed_diagnosis: str
    refresh: str
    refreshes_itself: str
    away: str
    nothing_yet: str
    tables: Mapping[str, str]
    columns: Mapping[str, str]
    states: Mapping[str, str]
    gates: Mapping[str, str]
    times: Mapping[str, str]
    trial_figures: Mapping[str, str]
    frozen: str
    candidates_waiting: str
    candidates_unanswered: str
    decision: str
    why: str
    why_missing: str
    approve: str
    rollback: str
    command_done: str
    drift_states: Mapping[str, str]
    drift_details: Mapping[str, str]
    drift_risk: str
    outcome_states: Mapping[str, str]
    outcome_details: Mapping[str, str]
    outcome_figures: Mapping[str, str]
    yes: str
    no: str

    def label(self, column: Column) -> str:
        """What a field is called."""
        return self.labels.get(column.key) or column.name.replace("_", " ").capitalize()

    def value(self, key: str, value: str) -> str:
        """What one value of a closed or open vocabulary is called."""
        if value in AGE_BANDS:
            low, _, high = value.strip("[)").partition("-")
            return f"{low}-{int(high) - 1}"
        if value.startswith("["):
            return value.strip("[)")
        vocabulary = self.values.get(key) or self.values.get("dose", {})
        return vocabulary.get(value, value)

    def code(self, key: str, code: int) -> str:
        """What one code of a code table means."""
        table = key.removeprefix("previous_")
        return self.codes.get(table, {}).get(code) or BY_KEY[table].labels[code]


ENGLISH = Texts(
    language="en",
    name="English",
    title="Readmit",
    subtitle="Risk of readmission within 30 days of discharge, for patients with diabetes",
    not_clinical="Not for clinical use. A research tool: it must not guide the care of a patient.",
    synthetic_banner="SYNTHETIC MODEL: trained on generated data. Its figures mean nothing about real patients.",
    tab_patient="Patient",
    tab_loop="The loop",
    groups={
        Group.DEMOGRAPHICS: "Demographics",
        Group.ADMISSION: "Admission",
        Group.STAY: "Stay and visits before",
        Group.DIAGNOSES: "Diagnoses",
        Group.LABORATORY: "Laboratory",
        Group.MEDICATION: "Medication",
        Group.HISTORY: "Earlier encounters of the patient (optional)",
    },
    history_note="Makes the risk more precise. Leave all empty if nothing is known; write 0 for a first stay.",
    labels={
        "race": "Race",
        "gender": "Sex",
        "age": "Age (years)",
        "weight": "Weight (pounds)",
        "admission_type_id": "Type of admission",
        "discharge_disposition_id": "Discharged to",
        "admission_source_id": "Admitted from",
        "time_in_hospital": "Days in hospital",
        "payer_code": "Payer",
        "medical_specialty": "Specialty",
        "num_lab_procedures": "Laboratory tests",
        "num_procedures": "Other procedures",
        "num_medications": "Drugs given",
        "number_outpatient": "Outpatient visits, year before",
        "number_emergency": "Emergency visits, year before",
        "number_inpatient": "Inpatient visits, year before",
        "diag_1": "Primary diagnosis",
        "diag_2": "Secondary diagnosis",
        "diag_3": "Third diagnosis",
        "number_diagnoses": "Diagnoses entered",
        "max_glu_serum": "Glucose in serum (mg/dL)",
        "a1cresult": "HbA1c (%)",
        "change": "Diabetes medication changed",
        "diabetesmed": "Diabetes medication prescribed",
        "previous_encounters": "Earlier encounters",
        "is_readmission": "Readmitted within 30 days now",
        "readmissions": "30-day readmissions, this one included",
        "previous_time_in_hospital": "Days in hospital last time",
        "previous_number_inpatient": "Inpatient visits before that, one year",
        "previous_discharge_disposition_id": "Discharged to last time",
        "previous_diag_1": "Primary diagnosis last time",
    },
    hints={"diag_1": "ICD-9-CM, such as 428 or 250.83", "diag_2": "may stay empty", "diag_3": "may stay empty"},
    values={
        "race": {"AfricanAmerican": "African American"},
        "max_glu_serum": {"None": "Not measured", "Norm": "Normal"},
        "a1cresult": {"None": "Not measured", "Norm": "Normal"},
        "change": {"Ch": "Yes", "No": "No"},
    },
    other_drugs="15 less common drugs",
    unknown="Unknown",
    button="Estimate the risk",
    empty_result="Fill in the form, or take the example as it stands, and press the button.",
    risk="Risk of readmission within 30 days",
    threshold="threshold {threshold}",
    verdict_high="High risk: above the threshold for follow-up.",
    verdict_low="Below the threshold for follow-up.",
    answered_by="Answered by",
    serving_now="Serving now",
    version="version {version}",
    epoch="epoch {epoch}",
    digest="digest {digest}",
    families={
        "lightgbm": "LightGBM",
        "decision_tree": "Decision tree",
        "logistic_regression": "Logistic regression",
    },
    warnings="Worth a look",
    warning_capped="above the largest value in the study; read as {usual}",
    warning_unseen="rare in training or never seen; read as any other value",
    reasons="What the model went by",
    reasons_note="Log-odds added to those of a patient of whom nothing is known: to the right, more risk. What the "
    "model did, not what would help the patient.",
    other_fields="{count} other fields together",
    counted={"drugs_given": "Diabetes drugs given", "drugs_changed": "Diabetes drugs with a changed dose"},
    troubles={
        "refused": ("Some fields can't be read", "Correct them and press the button again."),
        "unauthorized": (
            "This page may not ask the inference service",
            "The form is fine. Tell whoever runs this page: its key is missing or no longer valid.",
        ),
        "rate_limited": ("This page has asked too often", "The form is fine. Press the button again in a moment."),
        "no_model": ("No model is in service yet", "The first one is still being trained. Try again in a while."),
        "overloaded": ("The inference service is busy", "The form is fine. Press the button again in a moment."),
        "unreachable": ("The inference service can't be reached", "The form is fine. Try again shortly."),
        "failed": ("The inference service failed", "The form is fine. The log of the service says more."),
    },
    field_missing="is required",
    field_wrong="“{value}” is not allowed",
    allowed_number="a whole number from {low} to {high}",
    allowed_codes="one of the listed codes",
    allowed_values="one of {values}",
    allowed_text="text of at most 64 characters",
    allowed_diagnosis="an ICD-9-CM code, such as 428, 250.83, V27 or E849",
    refresh="Refresh",
    refreshes_itself="Refreshes itself every {seconds} s while this tab is open.",
    away="This service does not answer just now. The others are shown as they are.",
    nothing_yet="Nothing yet.",
    tables={"datasets": "Datasets and batches", "jobs": "Fits", "decisions": "Decisions", "pods": "Who serves what",
            "drift": "Drift", "outcomes": "What became of the patients",
            "rollout": "The newest promotion", "gates": "Gates"},
    columns={
        "dataset": "Dataset", "batch": "Batch", "rows": "Rows", "positives": "Readmitted", "synthetic": "Synthetic",
        "created": "Created", "family": "Family", "status": "Status", "attempts": "Attempts", "seconds": "Seconds",
        "auroc": "AUROC", "version": "Version", "model": "Model", "outcome": "Outcome",
        "difference": "Difference (90 %)",
        "epoch": "Epoch", "reason": "Reason", "decided": "Decided", "pod": "Pod", "load_ms": "Load (ms)", "at": "At",
        "digest": "Digest", "feature": "Feature", "psi": "PSI", "threshold": "Threshold",
        "figure": "Figure", "in_service": "In service", "interval": "Interval", "limit": "Limit",
        "after_s": "Serves it after (s)", "gate": "Gate", "figures": "Figures",
    },
    states={
        "queued": "queued", "running": "running", "done": "done", "failed": "failed", "promoted": "promoted",
        "rejected": "rejected", "serving": "serving", "refused": "refused", "accepted": "accepted", "held": "held",
        "on_trial": "on trial", "trial_failed": "failed its trial", "waiting_for_approval": "waits for an approval",
        "superseded": "superseded", "converging": "on its way to the pods", "converged": "served by every pod",
        "missing": "not heard of yet", "promotion": "promotion", "rollback": "rollback", "shadow": "shadow",
        "canary": "canary", "pass": "passed", "fail": "failed", "insufficient_evidence": "insufficient evidence",
        "not_applicable": "does not apply",
    },
    gates={
        "announcement": "Announcement", "evidence": "Evidence", "bundle": "Bundle",
        "provenance": "Provenance", "discrimination": "Discrimination",
        "champion": "Against the champion", "calibration": "Calibration", "net_benefit": "Net benefit",
        "subgroups": "Subgroups", "export_parity": "Export parity", "latency": "Latency", "bundle_size": "Bundle size",
        "freshness": "Freshness", "batches": "Batches",
    },
    times={"first": "first pod {seconds} s", "median": "median {seconds} s", "last": "last {seconds} s"},
    trial_figures={
        "answers": "answers of both", "by_challenger": "given to patients", "failures": "failures",
        "mean_risk_difference": "mean difference of risk", "changed_decisions": "changed decisions",
        "mean_score_ms": "ms an answer",
    },
    frozen="Promotions are frozen",
    candidates_waiting="{count} candidates wait to be judged.",
    candidates_unanswered="{count} candidates wait for a person's yes or no.",
    decision="Decision, gate by gate",
    why="Why (it stands in the ledger for good)",
    why_missing="Say why, in at least three characters.",
    approve="Approve this one",
    rollback="Roll back",
    command_done="Done. It stands in the ledger.",
    drift_states={
        "no_predictions": "nothing to judge", "no_reference": "nothing to compare with", "too_few": "too few to judge",
        "stable": "stable", "drifted": "drifted",
    },
    drift_details={
        "no_predictions": "Nobody has asked for a prediction yet.",
        "no_reference": "{window_rows} predictions, and no training rows of this kind of model yet.",
        "too_few": "{window_rows} predictions of the {min_rows} that a judgement takes.",
        "stable": "The last {window_rows} predictions (until {window_to}) look like the {reference_rows} training rows "
        "of dataset {reference_dataset_version}.",
        "drifted": "The last {window_rows} predictions (until {window_to}) differ from the {reference_rows} training "
        "rows of dataset {reference_dataset_version}.",
    },
    drift_risk="Risk (since the model went into service)",
    outcome_states={
        "no_champion": "nothing to judge", "too_few": "too few to judge", "sound": "as it was promoted for",
        "degraded": "worse than it was promoted for",
    },
    outcome_details={
        "no_champion": "Nothing has been promoted yet.",
        "too_few": "{window_rows} predictions of this champion with an outcome that can be judged, of the {min_rows} "
        "that a judgement takes; {intervened} are left out, since somebody acted on them.",
        "sound": "The last {window_rows} predictions (until {window_to}) with an outcome, {window_positives} of them "
        "readmitted; {intervened} are left out, since somebody acted on them.",
        "degraded": "The last {window_rows} predictions (until {window_to}) with an outcome, {window_positives} of "
        "them readmitted; {intervened} are left out, since somebody acted on them.",
    },
    outcome_figures={"auroc": "AUROC", "calibration_in_the_large": "Share readmitted less mean risk"},
    yes="yes",
    no="no",
)  # fmt: skip
