"""Serving: are the answers fast, right and logged?"""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from readmit_dashboards.board import Row, board, chosen
from readmit_dashboards.limits import (
    CPU_SHARE,
    ERRORS_SHARE,
    LATENCY_S,
    MEMORY_BYTES,
    MODEL_LOAD_S,
    REQUESTS_PER_S,
    red_below,
    red_from,
)
from readmit_dashboards.panels import About, Query, counts, density, figure, lines, rows

_POD = 'instance=~"$instance"'
_OURS = 'outcome=~"no_model|overloaded|issuer_unavailable|failed"'  #: outcomes that are our fault


def serving() -> Dashboard:
    """Objectives first, then what explains them."""
    return board(
        "readmit-serving",
        "Serving",
        "Requests, errors and latency of /predict against the objectives, per pod. "
        "The first row is for all pods; the others follow the choice of pods.",
        [_objectives(), _traffic(), _access(), _latency(), _answers(), _batches(), _models(), _challenger(), _form()],
        [chosen("instance", "Pod", "label_values(model_epoch, instance)", "Inference pods to look at")],
    )


def _objectives() -> Row:
    total = "sum(increase(prediction_requests_total[$__range]))"
    failed = f"(sum(increase(prediction_requests_total{{{_OURS}}}[$__range])) or on () vector(0))"
    return Row("Objectives", (
        figure(
            About("Requests per second", "Expected are 1 to 100. Below: the way from the clients, or a quiet night; "
                  "above: somebody's batch job.", "reqps",
                  ("RequestRateBelowExpected", "RequestRateAboveExpected", "NoTraffic")),
            Query("readmit:requests:rate1m"), limits=REQUESTS_PER_S, decimals=2,
        ),
        figure(
            About("Errors", "Share of requests without a prediction through our fault; less than 0.1 %. Look at "
                  "errors by code below.", "percentunit", ("PredictionErrorsHigh",)),
            Query("readmit:errors:ratio5m"), limits=ERRORS_SHARE, decimals=3,
        ),
        figure(
            About("Latency, P95", "95 % of predictions are faster; less than 500 ms. Above: more pods, or a CPU "
                  "limit that throttles.", "s", ("PredictionLatencyHigh",)),
            Query("readmit:latency_seconds:p95_5m"), limits=LATENCY_S, none="no traffic",
        ),
        figure(
            About("Model load", "Longest last load of a model among the pods; less than 2 s. Above: the object store "
                  "is slow or the bundle large; the old model answers meanwhile.", "s", ("ModelLoadSlow",)),
            Query("max(model_load_seconds)"), limits=MODEL_LOAD_S,
        ),
        figure(
            About("CPU", "The busiest pod's share of one processor; less than 80 %. Above: more pods.", "percentunit",
                  ("CpuHigh",)),
            Query('max(readmit:cpu:ratio1m{job="inference"})'), limits=CPU_SHARE, decimals=1,
        ),
        figure(
            About("Memory", "The largest pod; less than 1.5 GiB. Above: restart it, keep its log and report it.",
                  "bytes", ("MemoryHigh",)),
            Query('max(readmit:memory_bytes{job="inference"})'), limits=MEMORY_BYTES,
        ),
        figure(
            About("Availability", "Share of requests in the shown time that did not fail through our fault; 99.9 %.",
                  "percentunit", ("PredictionErrorsHigh",)),
            Query(f"1 - {failed} / ({total} > 0) or on () vector(1)"), limits=red_below(0.999), decimals=3,
        ),
        figure(
            About("Error budget left", "What is left of the 0.1 % of requests that may fail, in the shown time. "
                  "Below 0: no risky change until the cause is mended.", "percentunit", ("PredictionErrorsHigh",)),
            Query(f"1 - {failed} / (0.001 * {total} > 0) or on () vector(1)"),
            limits=((None, "red"), (0, "orange"), (0.25, "green")), decimals=1,
        ),
    ))  # fmt: skip


def _traffic() -> Row:
    return Row("Traffic and errors", (
        lines(
            About("Requests by pod", "Requests to /predict a second. One pod with far more: the load balancer, or a "
                  "client that keeps one connection.", "reqps", ("NoTraffic",)),
            Query(f"sum by (instance) (rate(prediction_requests_total{{{_POD}}}[$__rate_interval]))", "{{instance}}"),
            stacked=True,
        ),
        lines(
            About("Requests by outcome", "answered; refused: the client's body can't be understood; unauthorized: no "
                  "valid key; rate_limited: more than the client may ask; no_model: no model is loaded; overloaded: "
                  "turned away, since it would have waited too long; issuer_unavailable: a token can't be checked; "
                  "failed: a bug, its traceback is in the log.", "reqps",
                  ("PredictionErrorsHigh", "PredictionsRefused", "ClientsTurnedAway")),
            Query(f"sum by (outcome) (rate(prediction_requests_total{{{_POD}}}[$__rate_interval]))", "{{outcome}}"),
            stacked=True,
        ),
        lines(
            About("Errors by code", "Requests without a prediction, a second. One code that rises alone is usually "
                  "one client that sends wrong bodies.", "reqps", ("PredictionErrorsHigh", "PredictionsRefused")),
            Query(f"sum by (code) (rate(prediction_errors_total{{{_POD}}}[$__rate_interval])) or on () vector(0)",
                  "{{code}}"),
            stacked=True,
        ),
    ))  # fmt: skip


def _access() -> Row:
    return Row("Who asks", (
        lines(
            About("Turned away", "Requests to any endpoint that were not let in, a second, by code and client. "
                  "unauthorized: no valid key, whose is not known; forbidden: its scopes do not reach that far; "
                  "rate_limited: that client needs a higher limit, or a word.", "reqps", ("ClientsTurnedAway",)),
            Query(f"sum by (code, client) (rate(access_refused_total{{{_POD}}}[$__rate_interval])) or on () vector(0)",
                  "{{code}} {{client}}"),
            stacked=True, width=12,
        ),
        lines(
            About("Keys that are out of date", "1 while a pod can't use the newest list of API keys (keys) or the "
                  "keys of the issuer of tokens (issuer), and goes on with those before. Its log says why.", "none",
                  ("AccessStale",)),
            Query(f"max by (instance, source) (access_stale{{{_POD}}}) or on () vector(0)", "{{instance}} {{source}}"),
            steps=True, width=12,
        ),
    ))  # fmt: skip


def _latency() -> Row:
    bucket = f"prediction_latency_seconds_bucket{{{_POD}}}"
    percentiles = [
        Query(f"histogram_quantile({share}, sum by (le) (rate({bucket}[$__rate_interval])))", name)
        for share, name in ((0.5, "P50"), (0.95, "P95"), (0.99, "P99"))
    ]
    return Row("Latency", (
        lines(
            About("Latency", "From a request's headers to its answer's bytes, in percentiles; the scale is "
                  "logarithmic, the line is the objective for P95. Rising with the requests: more pods; rising "
                  "alone: a noisy neighbour.", "s", ("PredictionLatencyHigh",)),
            *percentiles, limits=LATENCY_S, logarithmic=True, width=9,
        ),
        density(
            About("Latency, spread", "How many requests took how long. A second band above the first: some of them "
                  "wait; see whether it belongs to one pod.", "s", ("PredictionLatencyHigh",)),
            Query(f"sum by (le) (increase({bucket}[$__rate_interval]))", "{{le}}"), width=8,
        ),
        lines(
            About("P95 by pod", "One pod above the others: its machine is busy, or it was just started.", "s",
                  ("PredictionLatencyHigh",)),
            Query(
                f"histogram_quantile(0.95, sum by (instance, le) (rate({bucket}[$__rate_interval])))", "{{instance}}",
            ),
            limits=LATENCY_S, logarithmic=True, width=7,
        ),
        lines(
            About("Within the objectives", "Shares of requests answered within 500 ms (objective: 95 %) and of "
                  "requests that did not fail through our fault (objective: 99.9 %).", "percentunit",
                  ("PredictionLatencyHigh", "PredictionErrorsHigh")),
            Query(
                f'sum(rate(prediction_latency_seconds_bucket{{{_POD}, le="0.5"}}[5m])) '
                f"/ sum(rate(prediction_latency_seconds_count{{{_POD}}}[5m]))", "within 500 ms",
            ),
            Query("1 - readmit:errors:ratio5m", "not failed"),
            limits=red_below(0.95), minimum=0.9, maximum=1, width=12,
        ),
        lines(
            About("CPU and memory of the pods", "Shares of the original's limits: 80 % of a processor, 1.5 GiB. Near "
                  "1: more pods, or find what grows.", "percentunit", ("CpuHigh", "MemoryHigh")),
            Query(f'readmit:cpu:ratio1m{{job="inference", {_POD}}} / 0.8', "CPU {{instance}}"),
            Query(f'readmit:memory_bytes{{job="inference", {_POD}}} / (1.5 * 1024 ^ 3)', "memory {{instance}}"),
            limits=red_from(1), width=12,
        ),
    ))  # fmt: skip


def _answers() -> Row:
    return Row("Answers and their log", (
        lines(
            About("Share of readmitted", "Share of answers that say readmitted, and the champion's share on "
                  "validation patients. Far apart: other patients, or another model.", "percentunit", ("DataDrift",)),
            Query(
                f'sum(rate(predictions_total{{{_POD}, readmitted="true"}}[5m])) '
                f"/ (sum(rate(predictions_total{{{_POD}}}[5m])) > 0) or on () vector(0)", "answers",
            ),
            Query("max(champion_alert_rate)", "validation"), minimum=0,
        ),
        lines(
            About("Log buffer", "Answers in memory that wait to be logged to Kafka. At its limit Kafka is away or "
                  "too slow, and answers are lost to the log, never to the client.", "short",
                  ("PredictionLogDropping",)),
            Query(f"sum by (instance) (prediction_log_buffered_events{{{_POD}}})", "{{instance}}"),
        ),
        lines(
            About("Logged and dropped", "Answers logged, and dropped by reason, a second. Any dropped: drift and "
                  "outcomes see a part only; mend Kafka.", "cps", ("PredictionLogDropping",)),
            Query(f"sum(rate(prediction_log_published_total{{{_POD}}}[$__rate_interval]))", "logged"),
            Query(f"sum by (reason) (rate(prediction_log_dropped_total{{{_POD}}}[$__rate_interval]))",
                  "dropped: {{reason}}"),
        ),
    ))  # fmt: skip


def _batches() -> Row:
    return Row("Batches and explanations", (
        lines(
            About("Rows of batches", "Rows answered or refused in batches, a second. More refused: that client's "
                  "export is wrong, and its answers say how.", "cps"),
            Query(f"sum by (outcome) (rate(prediction_batch_rows_total{{{_POD}}}[$__rate_interval]))", "{{outcome}}"),
            stacked=True, width=10,
        ),
        counts(
            About("Batches", "cut_off: answered in part, the rest could not be read; gone: the client went away; "
                  "refused: nothing could be read, or too many were under way; failed: a bug, its traceback is in "
                  "the log.", "none"),
            Query(f"sum by (outcome) (increase(prediction_batches_total{{{_POD}}}[$__rate_interval]))", "{{outcome}}"),
            width=7,
        ),
        counts(
            About("Explanations", "Requests to /explain. Each takes milliseconds of a thread: if they are many, they "
                  "want a pod of their own.", "none"),
            Query(f"sum by (outcome) (increase(prediction_explanations_total{{{_POD}}}[$__rate_interval]))",
                  "{{outcome}}"),
            width=7,
        ),
    ))  # fmt: skip


def _models() -> Row:
    return Row("Models in the pods", (
        rows(
            About("Model by pod", "What each pod answers with. All alike is healthy; one that differs has not "
                  "followed a promotion.", "none", ("PromotionNotConverged",)),
            Query(
                "max by (instance, name, version, sha256, synthetic) (model_epoch"
                f"{{{_POD}}} * on (instance) group_left (name, version, sha256, synthetic) model_info)"
            ),
            {"instance": "Pod", "Value": "Epoch", "name": "Model", "version": "Version", "sha256": "Digest",
             "synthetic": "Synthetic"},
        ),
        lines(
            About("Epochs behind", "Promotions that a pod has not followed yet. Above 0 for a minute: its log says "
                  "why.", "none", ("PromotionNotConverged",)),
            Query(f"readmit:epochs_behind{{{_POD}}}", "{{instance}}"), limits=red_from(1), steps=True, width=4,
        ),
        counts(
            About("Model loads", "Attempts to load a promoted model. refused: the bundle is not what was promoted; "
                  "retried: the object store is away; cache_unusable: the pod's disk.", "none", ("ModelRefused",)),
            Query(f"sum by (outcome) (increase(model_loads_total{{{_POD}}}[$__rate_interval]))", "{{outcome}}"),
            width=4,
        ),
        lines(
            About("Time to load", "How long each pod's last load took; less than 2 s. Above: the object store is "
                  "slow.", "s", ("ModelLoadSlow",)),
            Query(f"max by (instance) (model_load_seconds{{{_POD}}})", "{{instance}}"), limits=MODEL_LOAD_S, steps=True,
            width=4,
        ),
        counts(
            About("Where models came from", "memory: the one that answered before, a rollback in no time; cache: the "
                  "pod's disk; store: S3.", "none"),
            Query(f"sum by (source) (increase(model_sources_total{{{_POD}}}[$__rate_interval]))", "{{source}}"),
            width=12,
        ),
        lines(
            About("Pods ready for a rollback", "Pods that keep the model before in memory, beside the one that "
                  "answers: going back there takes no load. None before the second promotion.", "none"),
            Query(f"count(model_kept_info{{{_POD}}}) or on () vector(0)", "ready"), steps=True, width=12,
        ),
    ))  # fmt: skip


def _challenger() -> Row:
    compared = f"sum(rate(shadow_difference_count{{{_POD}}}[5m]))"
    return Row("The challenger", (
        lines(
            About("Pods with a challenger", "Pods that try a model beside the champion, by stage. shadow: only the "
                  "log sees its answers; canary: it answers for a share of the patients.", "none"),
            Query(
                f"count by (stage) (challenger_info{{{_POD}}}) "
                'or on () label_replace(vector(0), "stage", "none", "", "")', "{{stage}}",
            ),
            steps=True, width=6,
        ),
        lines(
            About("Its answers", "Encounters that the challenger scored, a second, by stage.", "cps"),
            Query(f"sum by (stage) (rate(challenger_answers_total{{{_POD}}}[$__rate_interval]))", "{{stage}}"),
            width=6,
        ),
        lines(
            About("Difference to the champion", "Mean difference of the two risks for the same encounter, and share "
                  "of encounters that they decide differently. Large: look at both models' cards before promoting.",
                  "percentunit"),
            Query(
                f"sum(rate(shadow_difference_sum{{{_POD}}}[5m])) / ({compared} > 0) or on () vector(0)",
                "difference of the risks",
            ),
            Query(
                f"sum(rate(shadow_flips_total{{{_POD}}}[5m])) / ({compared} > 0) or on () vector(0)",
                "decided differently",
            ),
            width=6,
        ),
        counts(
            About("Failed and skipped", "failed: the challenger could not score an encounter, and the champion "
                  "answered: end the rollout. skipped: the log was behind, and the other model was not asked.", "none"),
            Query(f"sum(increase(challenger_failures_total{{{_POD}}}[$__rate_interval]))", "failed"),
            Query(f"sum(increase(shadow_skipped_total{{{_POD}}}[$__rate_interval]))", "skipped"),
            width=6,
        ),
    ))  # fmt: skip


def _form() -> Row:
    return Row("The form", (
        counts(
            About("Presses of the button", "Predictions asked for in the UI. unreachable or failed: look at the "
                  "pods.", "none", ("ServiceDown",)),
            Query("sum by (outcome) (increase(ui_predictions_total[$__rate_interval]))", "{{outcome}}"), width=12,
        ),
        lines(
            About("Services away from the UI", "Requests of the UI that reached nobody, a second. Any: that service "
                  "is down, or its address in the UI's settings is wrong.", "reqps", ("ServiceDown",)),
            Query('sum by (service) (rate(ui_requests_total{outcome="away"}[$__rate_interval])) or on () vector(0)',
                  "{{service}}"),
            width=12,
        ),
    ))  # fmt: skip
