"""Platform: the processes, what runs between them, and those that watch."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from readmit_dashboards.board import Row, board, chosen
from readmit_dashboards.limits import AMBER, CPU_SHARE, GREEN, MEMORY_BYTES, RED, amber_from, red_below, red_from
from readmit_dashboards.panels import About, Query, counts, figure, lines, rows, states

_CHOSEN = 'job=~"$job", instance=~"$instance"'
_UP = {"0": ("down", RED), "1": ("up", GREEN)}
_READY = {"0": ("waiting", AMBER), "1": ("ready", GREEN)}


def platform() -> Dashboard:
    """What fires now, then processes, events and the observers themselves."""
    return board(
        "readmit-platform",
        "Platform",
        "Processes, readiness, resources and events of every service, and the health of Prometheus and Alertmanager. "
        "The first row is for everything; the others follow the choice of services.",
        [_now(), _alerts(), _processes(), _resources(), _events(), _observers()],
        [
            chosen("job", "Service", "label_values(up, job)", "Services to look at"),
            chosen("instance", "Process", 'label_values(up{job=~"$job"}, instance)', "Processes to look at"),
        ],
    )


def _now() -> Row:
    return Row("Now", (
        figure(
            About("Down", "Processes that Prometheus can't reach. Any: is it restarting? Its last log line says why "
                  "it ended.", "none", ("ServiceDown", "ServiceMissing")),
            Query("count(up == 0) or on () vector(0)"), limits=red_from(1),
        ),
        figure(
            About("Not ready", "Processes that wait for a dependency. The condition below names it; mend that, the "
                  "process goes on by itself.", "none", ("ServiceNotReady",)),
            Query("count(count by (job, instance) (readiness == 0)) or on () vector(0)"), limits=amber_from(1),
        ),
        figure(
            About("Alerts firing", "Alerts that fire now. Any: the table below names them, Runbooks says what mends "
                  "each.", "none"),
            Query('count(ALERTS{alertstate="firing"}) or on () vector(0)'), limits=red_from(1),
        ),
        figure(
            About("Restarts", "Starts of processes in the shown time. More than three in 15 minutes: a bug stops it "
                  "on purpose, see the last line of its log.", "none", ("ServiceRestarting",)),
            Query("sum(changes(process_start_time_seconds[$__range]))"), limits=amber_from(1),
        ),
        figure(
            About("Busiest process", "Largest share of one processor, trainer aside: less than 80 %.", "percentunit",
                  ("CpuHigh",)),
            Query('max(readmit:cpu:ratio1m{job!="trainer"})'), limits=CPU_SHARE, decimals=1,
        ),
        figure(
            About("Largest process", "Resident memory; less than 1.5 GiB. Above: restart it, nothing is lost; keep "
                  "its log and report it.", "bytes", ("MemoryHigh",)),
            Query("max(readmit:memory_bytes)"), limits=MEMORY_BYTES,
        ),
        figure(
            About("Oldest unsent event", "Longest wait of a committed event for Kafka; less than a minute.", "s",
                  ("OutboxStuck",)),
            Query("max(readmit:outbox_age_seconds:max)"), limits=red_from(60),
        ),
        figure(
            About("Largest lag", "Messages that one service has yet to handle of one topic. Growing: see below "
                  "which, then its log.", "short", ("ConsumerLagging", "ConsumerStuck")),
            Query("max(readmit:consumer_lag:max)"), limits=red_from(1000),
        ),
    ))  # fmt: skip


def _alerts() -> Row:
    firing = (
        'max by (alertname, severity, job, instance) (ALERTS{alertstate="firing"}) '
        'or on () label_replace(vector(0), "alertname", "none", "", "")'
    )
    return Row("Alerts", (
        rows(
            About("Firing", "Alerts that fire now. page wakes somebody, ticket is for the same day, info is only "
                  "worth knowing. Runbooks has a chapter for each.", "none"),
            Query(firing),
            {"alertname": "Alert", "severity": "Severity", "job": "Service", "instance": "Process"}, hidden=("Value",),
        ),
        counts(
            About("Alerts over time", "Alerts that fired or were about to (pending), by name. One that comes and "
                  "goes: its cause is still there.", "none"),
            Query("count by (alertname, alertstate) (ALERTS) or on () vector(0)", "{{alertname}} {{alertstate}}"),
            width=12,
        ),
    ))  # fmt: skip


def _processes() -> Row:
    return Row("Processes", (
        states(
            About("Up", "Whether Prometheus could scrape each process. Gaps at a deployment are normal.", "none",
                  ("ServiceDown", "ServiceMissing")),
            Query(f"max by (job, instance) (up{{{_CHOSEN}}})", "{{job}} {{instance}}"), _UP, limits=red_below(1),
            width=8,
        ),
        states(
            About("Readiness by condition", "The conditions of /readyz. One that waits for long: mend that "
                  "dependency.", "none", ("ServiceNotReady",)),
            Query(f"min by (job, condition) (readiness{{{_CHOSEN}}})", "{{job}}: {{condition}}"), _READY,
            limits=((None, AMBER), (1, GREEN)), width=10,
        ),
        counts(
            About("Starts", "Starts of processes. Repeated ones of one service: see the last line of its log.", "none",
                  ("ServiceRestarting",)),
            Query(f"sum by (job) (changes(process_start_time_seconds{{{_CHOSEN}}}[$__rate_interval]))", "{{job}}"),
            width=6,
        ),
    ))  # fmt: skip


def _resources() -> Row:
    return Row("Resources", (
        lines(
            About("CPU", "Share of one processor; less than 80 % but for the trainer, which is meant to use it.",
                  "percentunit", ("CpuHigh",)),
            Query(f"readmit:cpu:ratio1m{{{_CHOSEN}}}", "{{job}} {{instance}}"), limits=CPU_SHARE,
        ),
        lines(
            About("Memory", "Resident memory; less than 1.5 GiB. A slope over days: keep its log and report it.",
                  "bytes", ("MemoryHigh",)),
            Query(f"readmit:memory_bytes{{{_CHOSEN}}}", "{{job}} {{instance}}"), limits=MEMORY_BYTES,
        ),
        lines(
            About("File descriptors", "Share of the allowed that are open. Rising for hours: connections leak; "
                  "restart it and report it.", "percentunit", ("ServiceRestarting",)),
            Query(f"process_open_fds{{{_CHOSEN}}} / process_max_fds{{{_CHOSEN}}}", "{{job}} {{instance}}"),
            limits=red_from(0.8),
        ),
    ))  # fmt: skip


def _events() -> Row:
    consumed = f"events_consumed_total{{{_CHOSEN}}}"
    lost = f'events_consumed_total{{{_CHOSEN}, outcome=~"dead_letter|unreadable|crashed"}}'
    return Row("Events", (
        lines(
            About("Consumer lag", "Messages that a service has yet to handle. Growing: too slow; flat above 0: "
                  "stuck.", "short", ("ConsumerLagging", "ConsumerStuck")),
            Query('max by (job, topic) (readmit:consumer_lag:max{job=~"$job"})', "{{job}} {{topic}}"),
            limits=red_from(1000),
        ),
        lines(
            About("Events consumed", "A second, by service and topic, whatever came of them. Nothing while messages "
                  "wait: the consumer is stuck.", "cps", ("ConsumerStuck",)),
            Query(f"sum by (job, topic) (rate({consumed}[$__rate_interval]))", "{{job}} {{topic}}"),
        ),
        counts(
            About("Events not handled", "dead_letter and unreadable: read <topic>.dlt and the log for the reason; "
                  "crashed: a bug, nothing was committed.", "none", ("DeadLetters", "ServiceRestarting")),
            Query(f"sum by (job, topic, outcome) (increase({lost}[$__rate_interval])) or on () vector(0)",
                  "{{job}} {{topic}}: {{outcome}}"),
            limits=red_from(1),
        ),
        lines(
            About("Time to handle, P95", "From taking an event to its committed effect, retries included. Seconds: a "
                  "dependency is slow or away.", "s", ("ConsumerLagging",)),
            Query(
                "histogram_quantile(0.95, sum by (job, topic, le) "
                f"(rate(event_handling_seconds_bucket{{{_CHOSEN}}}[$__rate_interval])))", "{{job}} {{topic}}",
            ),
            width=6,
        ),
        lines(
            About("Outbox age", "Age of the oldest event that is committed but not in Kafka. Rising: the relay or "
                  "Kafka is down.", "s", ("OutboxStuck",)),
            Query(f"max by (job) (outbox_oldest_unsent_seconds{{{_CHOSEN}}})", "{{job}}"), limits=red_from(60), width=6,
        ),
        lines(
            About("Outbox, unsent", "Events that are committed but not in Kafka. Growing: the relay or Kafka is "
                  "down.", "short", ("OutboxStuck",)),
            Query(f"max by (job) (outbox_unsent_events{{{_CHOSEN}}})", "{{job}}"), width=6,
        ),
        lines(
            About("Outbox, parked", "Events that Kafka refuses for good; later ones of their keys wait behind them.",
                  "short", ("OutboxParked",)),
            Query(f"max by (job) (outbox_parked_events{{{_CHOSEN}}})", "{{job}}"), limits=red_from(1), width=6,
        ),
        lines(
            About("Outbox, sent", "Events that the relays published, a second. Nothing while unsent events wait: see "
                  "whether Kafka answers.", "cps", ("OutboxStuck",)),
            Query(
                f"sum by (job, topic) (rate(outbox_events_sent_total{{{_CHOSEN}}}[$__rate_interval])) "
                "or on () vector(0)", "{{job}} {{topic}}",
            ),
            width=6,
        ),
    ))  # fmt: skip


def _observers() -> Row:
    return Row("Prometheus and Alertmanager", (
        states(
            About("Configuration", "Whether the last reload was understood. refused: the old configuration is in "
                  "force; the log names the line.", "none", ("ServiceDown",)),
            Query(
                'label_replace(max(prometheus_config_last_reload_successful), "of", "Prometheus", "", "") '
                'or label_replace(max(alertmanager_config_last_reload_successful), "of", "Alertmanager", "", "")',
                "{{of}}",
            ),
            {"0": ("refused", RED), "1": ("in force", GREEN)}, limits=red_below(1), width=6,
        ),
        lines(
            About("Duration of scrapes", "The slowest scrape of each service; the time-out is 10 s. Seconds: the "
                  "process does not get to answer.", "s", ("ServiceDown",)),
            Query("max by (job) (scrape_duration_seconds)", "{{job}}"), limits=red_from(10), logarithmic=True, width=6,
        ),
        counts(
            About("Failures", "Rules that could not be evaluated, alerts that did not reach Alertmanager, "
                  "notifications that did not leave it. Any: alerts can't be relied on; see the logs of both.", "none"),
            Query("sum(increase(prometheus_rule_evaluation_failures_total[$__rate_interval]))", "rules"),
            Query("sum(increase(prometheus_notifications_dropped_total[$__rate_interval]))", "alerts dropped"),
            Query("sum(increase(alertmanager_notifications_failed_total[$__rate_interval])) or on () vector(0)",
                  "notifications failed"),
            limits=red_from(1), width=6,
        ),
        lines(
            About("Series in memory", "Time series that Prometheus holds. Growing without new processes: a label "
                  "takes too many values.", "short", ("MemoryHigh",)),
            Query("sum(prometheus_tsdb_head_series)", "series"), width=6,
        ),
    ))  # fmt: skip
