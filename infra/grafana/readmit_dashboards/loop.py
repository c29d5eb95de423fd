"""The loop: from a source to the pod that answers and back through drift, at one glance."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from readmit_dashboards.board import Row, board
from readmit_dashboards.limits import AMBER, GREEN, amber_from, red_from
from readmit_dashboards.panels import About, Query, counts, figure, lines, ranking, rows, states

_DAY_S = 86_400


def the_loop() -> Dashboard:
    """Each row is one step of the loop, in its order."""
    return board(
        "readmit-loop",
        "The loop",
        "One glance from ingestion over batches, fits, decisions and epochs to the pods, and back through drift. "
        "Read it from top to bottom: the first row that is not green is where the loop is stuck.",
        [_now(), _between(), _batches(), _quarantine(), _fits(), _decisions(), _governance(), _pods(), _return()],
    )


def _now() -> Row:
    return Row("Now", (
        figure(
            About("Data", "Newest version of the data; 0 before the first. Not growing although sources change: see "
                  "whether somebody still asks for ingestion.", "none", ("IngestionFailed",)),
            Query("max(dataset_version)"),
        ),
        figure(
            About("Last ingestion", "Time since an ingestion last ended well. The schedule is daily: from two days "
                  "on look at the scheduler and at GET /ingestions.", "s", ("IngestionFailed",)),
            Query("time() - max(last_ingestion_timestamp_seconds > 0)"), limits=amber_from(2 * _DAY_S), none="never",
        ),
        figure(
            About("Jobs waiting", "Training jobs that are queued or running. Growing for hours: add trainers.", "none",
                  ("TrainingGaveUp",)),
            Query("max(training_jobs_waiting)"), limits=amber_from(30),
        ),
        figure(
            About("Last decision", "Time since a candidate was last judged. Retraining is weekly: from eight days on "
                  "it has stopped.", "s", ("RetrainingStopped",)),
            Query("time() - max(last_decision_timestamp_seconds > 0)"), limits=red_from(8 * _DAY_S), none="never",
        ),
        figure(
            About("Champion", "Family and registry version of the model that the ledger names champion. None for "
                  "long after a first ingestion: read the reasons of the decisions.", "none",
                  ("NoChampion", "ChampionStale")),
            Query("max by (family, version) (champion_info)", "{{family}} v{{version}}"), named=True,
        ),
        figure(
            About("Epoch", "How many promotions the ledger holds; every pod should serve the last one.", "none",
                  ("NoChampion",)),
            Query("max(champion_epoch)"),
        ),
        figure(
            About("Pods behind", "Pods that answer with a model older than the champion. More than 0 for a minute: "
                  "the promotion has not converged; the pod's log says why.", "none",
                  ("PromotionNotConverged", "ModelRefused")),
            Query("count(readmit:epochs_behind > 0) or on () vector(0)"), limits=red_from(1),
        ),
        figure(
            About("Features that drift", "Features whose distribution among recent predictions is further from "
                  "training than the threshold. See which ones in Model, then whether their source has changed.",
                  "none", ("DataDrift",)),
            Query("count(drift_psi > on (instance) group_left () drift_threshold_psi) or on () vector(0)"),
            limits=amber_from(1),
        ),
    ))  # fmt: skip


def _between() -> Row:
    lost = 'events_consumed_total{outcome=~"dead_letter|unreadable"}'
    return Row("Between the services", (
        lines(
            About("Consumer lag", "Messages that a service has yet to handle. Growing: it is too slow or stuck on "
                  "one; flat above 0: it does not consume at all. Its log says which.", "short",
                  ("ConsumerLagging", "ConsumerStuck")),
            Query("max by (job, topic) (readmit:consumer_lag:max)", "{{job}} {{topic}}"),
            limits=red_from(1000),
        ),
        lines(
            About("Outbox age", "Age of the oldest event that is committed but not yet in Kafka. Rising: the relay "
                  "or Kafka is down; nothing is lost, it arrives later.", "s", ("OutboxStuck",)),
            Query("max by (job) (readmit:outbox_age_seconds:max)", "{{job}}"), limits=red_from(60),
        ),
        counts(
            About("Dead letters", "Messages that could not be understood, by topic. Any: read <topic>.dlt, each has "
                  "its reason; mend the producer and send them again.", "none", ("DeadLetters",)),
            Query(f"sum by (job, topic) (increase({lost}[$__rate_interval])) or on () vector(0)", "{{job}} {{topic}}"),
            limits=red_from(1),
        ),
    ))  # fmt: skip


def _batches() -> Row:
    return Row("From a source to batches", (
        counts(
            About("Ingestions", "Ingestions that ended, by outcome. unchanged is normal for a source that is the "
                  "same; failed: GET /ingestions names the fault.", "none", ("IngestionFailed",)),
            Query("sum by (outcome) (increase(ingestions_total[$__rate_interval]))", "{{outcome}}"),
        ),
        counts(
            About("Rows read", "Rows by fate. Many quarantined: the source has changed its form; `readmit quarantine "
                  "summary` tells the reasons.", "short", ("QuarantineGrowing",)),
            Query("sum by (fate) (increase(ingestion_rows_total[$__rate_interval]))", "{{fate}}"), width=6,
        ),
        counts(
            About("Batches written", "Training batches that were committed and announced. Ingestions without "
                  "batches: the data is the same as before.", "none"),
            Query("sum(increase(batches_written_total[$__rate_interval]))", "batches"), width=4,
        ),
        ranking(
            About("Rows of the newest version", "Where the rows of the newest version are. Train, validation and "
                  "test are 70 / 15 / 15 by patient; more excluded or quarantined than before: the source has "
                  "changed.", "short"),
            Query("sort_desc(max by (split) (dataset_rows))", "{{split}}"), width=6,
        ),
    ))  # fmt: skip


def _quarantine() -> Row:
    return Row("What did not fit, and what comes back", (
        lines(
            About("Quarantine", "Rows that did not fit the schema, by what became of them. open: somebody has to look "
                  "at them; corrected: they wait for a replay.", "short", ("QuarantineGrowing",)),
            Query("max by (status) (quarantine_rows)", "{{status}}"), steps=True, width=6,
        ),
        counts(
            About("Cells changed", "Cells that cleaning changed, by rule. A jump of one rule: a source writes "
                  "differently.", "short"),
            Query("sum by (rule) (increase(ingestion_changes_total[$__rate_interval]))", "{{rule}}"), width=6,
        ),
        counts(
            About("Outcomes", "Outcomes that came back for predictions. None for long: nobody says what happened, and "
                  "the model's later life cannot be judged.", "short"),
            Query("sum by (kind) (increase(outcomes_recorded_total[$__rate_interval]))", "{{kind}}"), width=6,
        ),
        lines(
            About("Feedback waiting", "Labelled encounters of training patients that wait for the next batch. At "
                  "15,000 it is made by itself.", "short"),
            Query("max(feedback_rows_waiting)", "waiting"), steps=True, width=6,
        ),
    ))  # fmt: skip


def _fits() -> Row:
    return Row("From batches to fits", (
        counts(
            About("Training attempts", "Attempts by outcome. gave_up: read the job's error in GET /jobs; transient: "
                  "MLflow or S3 is away; lease_lost: the trainer was stalled for longer than its lease.", "none",
                  ("TrainingGaveUp",)),
            Query("sum by (outcome) (increase(training_attempts_total[$__rate_interval]))", "{{outcome}}"),
        ),
        lines(
            About("Jobs over time", "Training jobs that are queued or running. Flat above 0: the trainer is stuck, "
                  "see its log.", "none", ("TrainingGaveUp",)),
            Query("max(training_jobs_waiting)", "waiting"), steps=True, width=6,
        ),
        lines(
            About("AUROC of the newest fit", "Validation AUROC of each family's newest fit. Falling with a new "
                  "batch: look at that batch, and at drift.", "none"),
            Query("max by (family) (training_validation_auroc)", "{{family}}"), steps=True, width=6, minimum=None,
        ),
        ranking(
            About("Time of a fit", "Mean time of a fit since the trainer started, without reading and registration. "
                  "Growing with the batches is normal; sudden growth: the machine is shared or too small.", "s"),
            Query(
                "sum by (family) (training_fit_seconds_sum) / sum by (family) (training_fit_seconds_count > 0)",
                "{{family}}",
            ), width=4,
        ),
    ))  # fmt: skip


def _decisions() -> Row:
    return Row("From fits to decisions and epochs", (
        counts(
            About("Decisions", "Candidates judged, by outcome and reason; held: a person decides. "
                  "not_better_beyond_noise is the usual answer; bad_evidence: look at the trainer; "
                  "insufficient_evidence: at the split.", "none", ("RetrainingStopped", "NoChampion")),
            Query("sum by (outcome, reason) (increase(decisions_total[$__rate_interval]))", "{{outcome}}: {{reason}}"),
            width=12,
        ),
        lines(
            About("Epochs", "The ledger's epoch and the one that each pod serves. They step together; a pod that "
                  "stays below is behind, see its log.", "none", ("PromotionNotConverged",)),
            Query("max(champion_epoch)", "ledger"), Query("max by (instance) (model_epoch)", "{{instance}}"),
            steps=True,
        ),
        states(
            About("MLflow follows", "Whether MLflow's alias and stages are as the ledger says. Lagging for minutes: "
                  "MLflow is away or refuses; pods follow the ledger meanwhile.", "none", ("RegistryLags",)),
            Query("max(registry_lags)", "MLflow"), {"0": ("follows", GREEN), "1": ("lags", AMBER)},
            limits=amber_from(1), width=4,
        ),
    ))  # fmt: skip


def _governance() -> Row:
    return Row("Governance", (
        figure(
            About("Candidates waiting", "Candidates that are not judged yet. Staying above 0: promotions are frozen, a "
                  "trial is going on, or S3 is away; `readmit rollout` says which.", "none", ("RetrainingStopped",)),
            Query("max(candidates_waiting)"), limits=amber_from(30),
        ),
        figure(
            About("Promotions", "Whether candidates may become champion. Frozen: somebody asked for it; `readmit "
                  "ledger list --kind freeze` says who and why.", "none"),
            Query("max(promotions_frozen)"), limits=amber_from(1), words={"0": "open", "1": "frozen"},
        ),
        figure(
            About("On trial", "The candidate that is tried beside the champion. `readmit rollout` shows its figures; "
                  "`readmit end-trial` ends it.", "none"),
            Query(
                "max by (version, stage) (trial_info) "
                'or on () label_replace(vector(0), "stage", "nobody", "", "")', "{{stage}} {{version}}",
            ), named=True,
        ),
        figure(
            About("Convergence", "Mean time from a promotion or rollback until the last live pod served it, since the "
                  "promoter started. Seconds: the object store or Kafka is slow.", "s", ("ConvergenceFailed",)),
            Query("sum(convergence_seconds_sum) / (sum(convergence_seconds_count) > 0)"), limits=red_from(10),
            none="none yet", decimals=2,
        ),
        counts(
            About("Promotions that arrived", "Promotions and rollbacks by whether every live pod came to serve them. "
                  "failed: the champion before was brought back; the ledger names the pods.", "none",
                  ("ConvergenceFailed",)),
            Query("sum by (outcome) (increase(convergences_total[$__rate_interval]))", "{{outcome}}"), width=12,
        ),
        counts(
            About("Reactions", "What was done about drift of the patients and degradation of the champion, as the "
                  "policy says. Many: the source or the patients have changed, see Model.", "none",
                  ("DataDrift", "ModelDegraded")),
            Query("sum by (cause, action) (increase(reactions_total[$__rate_interval]))", "{{cause}}: {{action}}"),
        ),
        counts(
            About("Denied", "What known people asked for and was not done, by problem. forbidden: somebody's role is "
                  "too low; `readmit ledger list --kind denial` says whose.", "none"),
            Query(
                "sum by (problem) (increase(denials_total[$__rate_interval])) "
                'or on () label_replace(vector(0), "problem", "none", "", "")', "{{problem}}",
            ),
        ),
        counts(
            About("Repairs in MLflow", "Changes of aliases and stages that nobody had decided, and that were taken "
                  "back. Any: ask who made them.", "none", ("RegistryTampered",)),
            Query("sum(increase(registry_repairs_total[$__rate_interval]))", "repaired"),
        ),
    ))  # fmt: skip


def _pods() -> Row:
    return Row("Which pod serves what", (
        rows(
            About("Serving now", "Each pod with the model that it answers with. Two digests for one epoch must never "
                  "be seen: stop the pod with the odd one.", "none", ("PromotionNotConverged", "ModelRefused")),
            Query(
                "max by (instance, name, version, sha256, synthetic) "
                "(model_epoch * on (instance) group_left (name, version, sha256, synthetic) model_info)"
            ),
            {"instance": "Pod", "Value": "Epoch", "name": "Model", "version": "Version", "sha256": "Digest",
             "synthetic": "Synthetic"},
            width=16,
        ),
        lines(
            About("Pods by their last word", "What the pods told the promoter. behind: serves an older champion; "
                  "refused: could not load the present one, see its log.", "none",
                  ("PromotionNotConverged", "ModelRefused")),
            Query("max by (state) (pods)", "{{state}}"), steps=True,
        ),
    ))  # fmt: skip


def _return() -> Row:
    return Row("From answers back to drift", (
        lines(
            About("The way of an answer", "Answers given, logged to Kafka, kept by the ingestor and seen by the "
                  "monitor, a second. A line that stays below the one before it: that step is behind or loses; see "
                  "consumer lag and the prediction log in Serving.", "cps",
                  ("PredictionLogDropping", "ConsumerLagging")),
            Query("sum(rate(predictions_total[$__rate_interval]))", "1 given"),
            Query("sum(rate(prediction_log_published_total[$__rate_interval]))", "2 logged"),
            Query("sum(rate(predictions_stored_total[$__rate_interval]))", "3 stored"),
            Query("sum(rate(predictions_observed_total[$__rate_interval]))", "4 observed"),
        ),
        lines(
            About("Drift", "The five features that are furthest from training, the risk itself, and the threshold. "
                  "Above it: see the feature in Model; a changed source is mended there, changed patients need a "
                  "retraining.", "none", ("DataDrift",)),
            Query(
                "topk(5, max by (feature) (drift_psi)) "
                'or on () label_replace(vector(0), "feature", "none yet", "", "")', "{{feature}}",
            ),
            Query("max(drift_risk_psi) or on () vector(0)", "risk"),
            Query("max(drift_threshold_psi)", "threshold"),
        ),
        lines(
            About("Alert rate", "Share of answers that alert, live and on the validation patients. Far apart: other "
                  "patients, or another model than was validated.", "percentunit", ("DataDrift",)),
            Query("max(live_alert_rate) or on () vector(0)", "live"), Query("max(champion_alert_rate)", "validation"),
        ),
    ))  # fmt: skip
