"""All metrics of the service. The registry is the process-wide one of prometheus_client, served at /metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "prediction_requests",
    "Requests to /predict by outcome (answered, refused, unauthorized, rate_limited, no_model, overloaded, "
    "issuer_unavailable, failed). More unauthorized or rate_limited: see access_refused_total; no_model: look at "
    "model_loads_total; overloaded: add pods; issuer_unavailable: see access_stale; failed: a bug, its traceback is in "
    "the log.",
    ["outcome"],
)
BATCHES = Counter(
    "prediction_batches",
    "Requests to /predict/batch by outcome (answered, refused, cut_off, gone, failed). cut_off: a part was answered, "
    "the rest could not be read; gone: the client went away.",
    ["outcome"],
)
BATCH_ROWS = Counter(
    "prediction_batch_rows",
    "Rows of batches by outcome (answered, refused). More refused: that client's export is wrong, its answers say why.",
    ["outcome"],
)
EXPLANATIONS = Counter(
    "prediction_explanations",
    "Requests to /explain by outcome (answered, refused). Each takes milliseconds of a thread: if they are "
    "many, they want a pod of their own.",
    ["outcome"],
)
PREDICTIONS = Counter(
    "predictions",
    "Answers by verdict. A shifting share of readmitted=true means other patients or another model.",
    ["readmitted"],
)
LATENCY = Histogram(
    "prediction_latency_seconds",
    "From when a request is there, or its body late, to the answer's bytes. Rising: the loop is busy, add pods.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
ERRORS = Counter(
    "prediction_errors",
    "Requests without a prediction by error code. One client's code rising alone: that client sends wrong bodies.",
    ["code"],
)
PREDICTION_LOG_BUFFERED = Gauge(
    "prediction_log_buffered_events",
    "Answers that wait in memory to be logged to Kafka. At its limit: Kafka is away or too slow, and answers are lost "
    "to the log (never to the client).",
)
PREDICTION_LOG_PUBLISHED = Counter("prediction_log_published", "Answers logged to Kafka as prediction.made.")
PREDICTION_LOG_DROPPED = Counter(
    "prediction_log_dropped",
    "Answers that the log has lost, by reason (full, shutdown). Rising: drift and outcomes see a part only.",
    ["reason"],
)
LOOP_LATE = Gauge(
    "event_loop_late_seconds",
    "How late the event loop was when it last looked, every 20 ms: what a request waits before it is read. Rising: "
    "more requests than the pod can answer (prediction_requests_total, overloaded), or no time from the machine.",
)
MODEL_LOADS = Counter(
    "model_loads",
    "Attempts to load a promoted model by outcome (serving, refused, retried, cache_unusable). "
    "Refused: the bundle isn't what was promoted; retried: the object store is away.",
    ["outcome"],
)
MODEL_SOURCES = Counter(
    "model_sources",
    "Models put in service by where they came from: memory (the one that answered before, or a challenger), cache "
    "(this pod's disk), store (S3). A rollback that counts as store took a load: the pod did not have that model.",
    ["source"],
)
MODEL_LOAD_SECONDS = Gauge("model_load_seconds", "How long the last successful load took.")
MODEL_INFO = Gauge("model_info", "1 for the model that answers.", ["name", "version", "sha256", "synthetic"])
MODEL_KEPT = Gauge(
    "model_kept_info",
    "1 for the model that answered before and is kept in memory: a rollback to it takes no load.",
    ["name", "version", "sha256"],
)
MODEL_EPOCH = Gauge("model_epoch", "Epoch of the model that answers; 0 means none.")
MODEL_EPOCH_KNOWN = Gauge(
    "model_epoch_known", "Newest promotion heard of. Above model_epoch for minutes: this pod is behind, see its log."
)
CHALLENGER_INFO = Gauge(
    "challenger_info",
    "1 for the model that is tried beside the champion, with its stage (shadow, canary).",
    ["name", "version", "sha256", "stage"],
)
CHALLENGER_ANSWERS = Counter(
    "challenger_answers",
    "Encounters that the challenger scored by stage: canary (the client got its answer), shadow (only the log did).",
    ["stage"],
)
CHALLENGER_FAILURES = Counter(
    "challenger_failures",
    "Encounters that the challenger could not score; the champion answered. Above 0: end the rollout.",
)
SHADOW_DIFFERENCE = Histogram(
    "shadow_difference",
    "How far the risks of champion and challenger are apart for the same encounter. Large: look at both models' cards.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
)
SHADOW_FLIPS = Counter("shadow_flips", "Encounters for which champion and challenger decide differently.")
SHADOW_SKIPPED = Counter(
    "shadow_skipped",
    "Logged answers without the other model's, because the log was behind. Rising: add pods, or compare fewer.",
)
ACCESS_REFUSED = Counter(
    "access_refused",
    "Requests to any endpoint that were turned away before it, by code (unauthorized, forbidden, rate_limited, "
    "issuer_unavailable) and client: the key's id, oidc, anonymous or none. rate_limited: that client needs a higher "
    "limit, or a word; forbidden: another scope; unauthorized: somebody's key has expired, or somebody tries.",
    ["code", "client"],
)

# A rate needs a zero to start from.
for outcome in ("unauthorized", "rate_limited", "issuer_unavailable"):
    REQUESTS.labels(outcome)
for outcome in ("serving", "refused", "retried", "cache_unusable"):
    MODEL_LOADS.labels(outcome)
for source in ("memory", "cache", "store"):
    MODEL_SOURCES.labels(source)
for outcome in ("answered", "refused", "cut_off", "gone", "failed"):
    BATCHES.labels(outcome)
for outcome in ("answered", "refused"):
    BATCH_ROWS.labels(outcome)
    EXPLANATIONS.labels(outcome)
for stage in ("shadow", "canary"):
    CHALLENGER_ANSWERS.labels(stage)
for reason in ("full", "shutdown"):
    PREDICTION_LOG_DROPPED.labels(reason)
