"""Model: how good the champion is, what it costs, and whether it still fits the patients."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from readmit_dashboards.board import Row, board, chosen
from readmit_dashboards.limits import amber_from, red_from
from readmit_dashboards.panels import About, Query, counts, figure, lines, ranking

_STALE_S = 90 * 86_400


def model() -> Dashboard:
    """The champion, its business figures, what outcomes say of it, its candidates, drift."""
    return board(
        "readmit-model",
        "Model",
        "The champion's quality on validation patients and in service, what its alerts mean to a ward, the candidates, "
        "and drift. Nothing here has seen the test split.",
        [_champion(), _business(), _history(), _in_service(), _candidates(), _drift()],
        [chosen("feature", "Feature", "label_values(drift_psi, feature)", "Features whose drift to look at")],
    )


def _champion() -> Row:
    return Row("Champion", (
        figure(
            About("Champion", "Family and registry version of the model that the ledger names champion.", "none",
                  ("NoChampion",)),
            Query("max by (family, version) (champion_info)", "{{family}} v{{version}}"), named=True,
        ),
        figure(
            About("Trained on", "Whether the champion was trained on synthetic data. Synthetic must never answer for "
                  "a patient: ingest a real source; the first model on real data replaces it.", "none",
                  ("NoChampion",)),
            Query('max(champion_info{synthetic="true"}) or on () vector(0)'), limits=red_from(1),
            words={"0": "real data", "1": "synthetic data"},
        ),
        figure(
            About("Promoted", "Time since the champion was promoted. After 90 days nothing has beaten it: look at "
                  "the decisions, and at drift.", "s", ("ChampionStale",)),
            Query("time() - max(champion_promoted_timestamp_seconds > 0)"), limits=amber_from(_STALE_S), none="never",
        ),
        figure(
            About("AUROC", "Chance that a readmitted patient has a higher risk than another, on validation patients. "
                  "0.5 is a coin; about 0.67 is what these data allow. Below: look at the newest batches.", "none",
                  ("ChampionStale",)),
            Query("max(champion_auroc)"), limits=((None, "red"), (0.55, "orange"), (0.62, "green")), decimals=3,
        ),
        figure(
            About("AUROC, 95 % interval", "Width of the 95 % interval. Wide: too few validation patients to tell two "
                  "models apart.", "none"),
            Query("max(champion_auroc_high) - max(champion_auroc_low)"), limits=amber_from(0.1), decimals=3,
        ),
        figure(
            About("Average precision", "Mean precision over all thresholds; a model that knows nothing has the share "
                  "of readmissions (about 0.09 to 0.11).", "none"),
            Query("max(champion_average_precision)"), decimals=3,
        ),
        figure(
            About("Brier score", "Mean squared error of the risk; lower is better. Never knowing more than the share "
                  "of readmissions gives about 0.1.", "none"),
            Query("max(champion_brier)"), limits=amber_from(0.12), decimals=4,
        ),
        figure(
            About("Calibration error", "How far risks are from what happened, on average; less than 0.01 is the "
                  "goal. Above: do not read the risk as a probability.", "none"),
            Query("max(champion_calibration_error)"), limits=amber_from(0.01), decimals=4,
        ),
    ))  # fmt: skip


def _business() -> Row:
    alerts = 'sum(increase(predictions_total{readmitted="true"}[$__range]))'
    return Row("What it means to a ward", (
        figure(
            About("Precision", "Share of alerts that were readmissions, on validation patients at the decision "
                  "threshold. Low: staff tire of alerts; raise the threshold.", "percentunit"),
            Query("max(champion_precision)"), decimals=1,
        ),
        figure(
            About("Recall", "Share of readmissions that are alerted to, on validation patients. Low: many are "
                  "missed; lower the threshold.", "percentunit"),
            Query("max(champion_recall)"), decimals=1,
        ),
        figure(
            About("Alert rate, validation", "Share of validation patients that are alerted to: the work that the "
                  "model asks for.", "percentunit"),
            Query("max(champion_alert_rate)"), decimals=1,
        ),
        figure(
            About("Alert rate, live", "Share of recent answers that alert. Far from validation: other patients, or "
                  "another model than was validated.", "percentunit", ("DataDrift",)),
            Query("max(live_alert_rate) or on () vector(0)"), decimals=1,
        ),
        figure(
            About("Alerts per readmission", "How many alerts a ward follows up to meet one readmission: 1 / "
                  "precision.", "none"),
            Query("1 / max(champion_precision)"), decimals=1,
        ),
        figure(
            About("Alerts", "Alerts given in the shown time. More than the wards can follow: raise the threshold.",
                  "short"),
            Query(alerts), decimals=0,
        ),
        figure(
            About("Readmissions among them", "Expected number of readmissions among these alerts, if precision is as "
                  "on validation patients.", "short"),
            Query(f"{alerts} * max(champion_precision)"), decimals=0,
        ),
        figure(
            About("Mean risk, live", "Mean risk of recent answers. Moving away for days: other patients; see drift.",
                  "percentunit", ("DataDrift",)),
            Query("max(live_risk_mean) or on () vector(0)"), decimals=1,
        ),
    ))  # fmt: skip


def _history() -> Row:
    return Row("Champions over time", (
        lines(
            About("AUROC and its interval", "Of the champion at each time. A step is a promotion; each is up beyond "
                  "noise, or the first on real data.", "none", ("ChampionStale",)),
            Query("max(champion_auroc_high)", "upper"), Query("max(champion_auroc)", "AUROC"),
            Query("max(champion_auroc_low)", "lower"),
            steps=True, minimum=None, bands={"upper": "lower"},
        ),
        lines(
            About("Precision, recall, alert rate", "Of the champion, at its decision threshold. A jump at a "
                  "promotion: tell the wards that the number of alerts changes.", "percentunit"),
            Query("max(champion_precision)", "precision"), Query("max(champion_recall)", "recall"),
            Query("max(champion_alert_rate)", "alert rate"), steps=True,
        ),
        lines(
            About("Brier score and calibration error", "Of the champion; lower is better. Calibration error above "
                  "0.01: do not read the risk as a probability.", "none"),
            Query("max(champion_brier)", "Brier score"), Query("max(champion_calibration_error)", "calibration error"),
            steps=True,
        ),
    ))  # fmt: skip


def _in_service() -> Row:
    return Row("What became of the patients", (
        lines(
            About("AUROC in service", "Of the champion's answers with a known outcome, with its interval, beside what "
                  "its promotion measured and the limit. The whole interval below the limit: degraded. Gaps: too few "
                  "outcomes.", "none", ("ModelDegraded",)),
            Query("max(live_auroc_high)", "upper"), Query("max(live_auroc)", "in service"),
            Query("max(live_auroc_low)", "lower"), Query("max(live_auroc_limit)", "limit"),
            Query("max(champion_auroc)", "validation"),
            minimum=None, bands={"upper": "lower"},
        ),
        lines(
            About("Readmissions less risk, in service", "Share of readmissions less the mean risk. Above 0: risks are "
                  "too low, below: too high. The whole interval beyond 0.03 either way: degraded.", "percentunit",
                  ("ModelDegraded",)),
            Query("max(live_calibration_in_the_large_high)", "upper"),
            Query("max(live_calibration_in_the_large)", "in service"),
            Query("max(live_calibration_in_the_large_low)", "lower"),
            minimum=None, bands={"upper": "lower"},
        ),
        lines(
            About("Outcomes judged and left out", "Predictions with an outcome that are judged, and those left out "
                  "since somebody acted on them. None: nobody records outcomes, or the champion is younger than "
                  "they take.", "short"),
            Query("max(live_outcome_rows)", "judged"), Query("max(live_intervened_rows)", "acted upon"),
        ),
    ))  # fmt: skip


def _candidates() -> Row:
    return Row("Candidates", (
        lines(
            About("AUROC by family", "Validation AUROC of each family's newest fit, and the champion's. All falling "
                  "with a new batch: look at that batch.", "none", ("TrainingGaveUp",)),
            Query("max by (family) (training_validation_auroc)", "{{family}}"),
            Query("max(champion_auroc)", "champion"),
            steps=True, minimum=None,
        ),
        counts(
            About("Decisions by reason", "Why candidates were accepted, rejected or held. not_better_beyond_noise is "
                  "usual; bad_evidence: look at the trainer; insufficient_evidence: at the split.", "none",
                  ("RetrainingStopped",)),
            Query("sum by (reason) (increase(decisions_total[$__rate_interval]))", "{{reason}}"),
        ),
        ranking(
            About("Decisions so far", "Since the promoter started. Many insufficient_evidence or bad_evidence: "
                  "nothing can be promoted; see the promoter's log.", "none", ("NoChampion",)),
            Query("sort_desc(sum by (outcome, reason) (decisions_total))", "{{outcome}}: {{reason}}"),
        ),
    ))  # fmt: skip


def _drift() -> Row:
    return Row("Drift", (
        ranking(
            About("Drift by feature", "Population stability index of recent predictions against training, the 15 "
                  "largest. Above 0.1 look, above 0.2 act: is it the source, or are it the patients?", "none",
                  ("DataDrift",)),
            Query(
                'sort_desc(topk(15, max by (feature) (drift_psi{feature=~"$feature"}))) '
                'or on () label_replace(vector(0), "feature", "none yet", "", "")', "{{feature}}",
            ),
            limits=((None, "green"), (0.1, "orange"), (0.2, "red")), height=12, decimals=3,
        ),
        lines(
            About("Drift over time", "Population stability index of the chosen features, and the threshold. A step: "
                  "the source has changed; a slope: the patients.", "none", ("DataDrift",)),
            Query(
                'topk(10, max by (feature) (drift_psi{feature=~"$feature"})) '
                'or on () label_replace(vector(0), "feature", "none yet", "", "")', "{{feature}}",
            ),
            Query("max(drift_threshold_psi)", "threshold"), height=12,
        ),
        lines(
            About("Drift of the risk", "The same index for the risk that was answered. Up without any feature: "
                  "another model, or a threshold between features.", "none", ("DataDrift",)),
            Query("max(drift_risk_psi) or on () vector(0)", "risk"), Query("max(drift_threshold_psi)", "threshold"),
            width=8, height=12,
        ),
        lines(
            About("Alert rate, live and validation", "Share of answers that alert. Far apart for long: other "
                  "patients, or another model than was validated.", "percentunit", ("DataDrift",)),
            Query("max(live_alert_rate) or on () vector(0)", "live"), Query("max(champion_alert_rate)", "validation"),
        ),
        lines(
            About("Rows of the window", "Predictions that drift is computed from. Too few: figures are noise, or not "
                  "there yet.", "short", ("NoTraffic",)),
            Query("max(drift_window_rows) or on () vector(0)", "rows"),
        ),
        counts(
            About("Drift events", "drift.detected events. Each names its features in the UI; a person or a policy "
                  "asks for a retraining.", "none", ("DataDrift",)),
            Query("sum(increase(drift_detected_total[$__rate_interval])) or on () vector(0)", "detected"),
        ),
    ))  # fmt: skip
