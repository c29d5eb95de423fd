"""Where a figure turns amber or red. Those of the original platform's table of key metrics have names."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.models.dashboard import Threshold, ThresholdsMode

GREEN, AMBER, RED, BLUE = "green", "orange", "red", "blue"

Limits = tuple[tuple[float | None, str], ...]  #: (from this value on, colour), rising; the first has no value

#: A figure that is neither good nor bad.
NEUTRAL: Limits = ((None, BLUE),)


def red_from(limit: float) -> Limits:
    """Good below the limit."""
    return ((None, GREEN), (limit, RED))


def amber_from(limit: float) -> Limits:
    """Unusual from the limit on, not yet bad."""
    return ((None, GREEN), (limit, AMBER))


def red_below(limit: float) -> Limits:
    """Good from the limit on."""
    return ((None, RED), (limit, GREEN))


LATENCY_S = red_from(0.5)
ERRORS_SHARE = red_from(0.001)
CPU_SHARE = red_from(0.8)
MEMORY_BYTES = red_from(1.5 * 1024**3)
MODEL_LOAD_S = red_from(2)
REQUESTS_PER_S: Limits = ((None, AMBER), (1, GREEN), (100, AMBER))


def thresholds(limits: Limits) -> ThresholdsConfig:
    """As Grafana wants them."""
    steps = [Threshold(value=value, color=colour) for value, colour in limits]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
