"""The gates: each takes the figures that it judges by and says pass, fail, insufficient evidence or not applicable."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from readmit_promoter.bootstrap import Distribution, Interval, flattened
from readmit_promoter.inspection import Inspection
from readmit_promoter.part import Part
from readmit_promoter.policy import (
    BatchesGate,
    BundleSizeGate,
    CalibrationGate,
    ChampionGate,
    DiscriminationGate,
    ExportParityGate,
    FreshnessGate,
    LatencyGate,
    NetBenefitGate,
    SubgroupGate,
)
from readmit_promoter.subgroups import Audit, worst
from readmit_promoter.verdict import Figure, GateResult, Status

Drawn = Mapping[str, Distribution]


def shown(name: str, interval: Interval | None) -> dict[str, Figure]:
    """An interval as figures; nothing where there is none."""
    return {key: value for key, value in flattened(name, interval).items() if value is not None}


def within(interval: Interval | None, low: float, high: float) -> Status:
    """Pass where the interval lies within the limits, fail where it lies wholly outside."""
    if interval is None:
        return Status.INSUFFICIENT
    if low <= interval.low and interval.high <= high:
        return Status.PASS
    return Status.FAIL if interval.high < low or interval.low > high else Status.INSUFFICIENT


def result(
    name: str, gate: Part | None, status: Status, detail: str, figures: Mapping[str, Figure] | None = None
) -> GateResult:
    """What a gate of the policy found."""
    thresholds = {} if gate is None else gate.model_dump(mode="json")
    return GateResult(name, status, detail, dict(figures or {}), thresholds)


def discrimination(gate: DiscriminationGate, own: Interval) -> GateResult:
    """The candidate's own AUROC against a bound."""
    passed = own.low > gate.above_auroc
    detail = (
        f"AUROC {own.point:.4f}, lower end {own.low:.4f} {'above' if passed else 'not above'} "
        f"{'chance' if gate.above_auroc == 0.5 else gate.above_auroc}"
    )
    return result("discrimination", gate, Status.PASS if passed else Status.FAIL, detail, shown("auroc", own))


def champion(gate: ChampionGate, difference: Interval, common_rows: int) -> GateResult:
    """AUROC against the champion's on common rows."""
    needed = -gate.margin if gate.comparison == "non_inferiority" else 0.0
    detail = (
        f"AUROC {difference.point:+.4f} against the champion "
        f"({difference.low:+.4f} to {difference.high:+.4f}) on {common_rows} common rows"
    )
    figures = {**shown("auroc_difference", difference), "common_rows": common_rows}
    return result("champion", gate, Status.PASS if difference.low > needed else Status.FAIL, detail, figures)


def calibration(gate: CalibrationGate, own: Drawn, error_rate: float, rows: int, *, held_out: bool) -> GateResult:
    """Expected calibration error, in the large, and slope, on rows that the calibration map was not fitted on."""
    error = own["calibration_error"].reflected(error_rate)
    large, slope = own["in_the_large"].interval(error_rate), own["slope"].interval(error_rate)
    checks = {
        "calibration error": (error, 0.0, gate.max_error),
        "in the large": (large, -gate.max_in_the_large, gate.max_in_the_large),
        "slope": (slope, gate.min_slope, gate.max_slope),
    }
    told = [f"{name} {_told(interval)}" for name, (interval, _, _) in checks.items()]
    status = worst([within(*check) for check in checks.values()])
    whose = "that calibration did not see" if held_out else "(not told which of them calibration saw)"
    figures = {
        **shown("calibration_error", error), **shown("in_the_large", large), **shown("slope", slope), "rows": rows,
    }  # fmt: skip
    return result("calibration", gate, status, f"{', '.join(told)} on {rows} rows {whose}", figures)


def net_benefit(
    gate: NetBenefitGate, own: Drawn, common: Drawn | None, error_rate: float, threshold: float
) -> GateResult:
    """Over the better of everybody and nobody, and against the champion where there are common rows."""
    gain = own["net_benefit_gain"].interval(error_rate)
    statuses = [_above(gain, gate.above_default)]
    detail = f"{_told(gain)} over the better of following up everybody and nobody"
    figures = {
        "threshold": threshold,
        **shown("net_benefit", own["net_benefit"].interval(error_rate)),
        **shown("net_benefit_gain", gain),
    }
    if common is not None:
        difference = common["net_benefit_difference"].interval(error_rate)
        statuses.append(_above(difference, -gate.max_loss))
        detail += f", {_told(difference)} against the champion"
        figures |= shown("net_benefit_difference", difference)
    return result("net_benefit", gate, worst(statuses), f"at {threshold:.3f}: {detail}", figures)


def subgroups(gate: SubgroupGate, audit: Audit) -> GateResult:
    """The worst of all groups."""
    status = worst(list(audit.statuses.values()))
    named = sorted(name for name, found in audit.statuses.items() if found is status)
    if status is Status.PASS:
        detail = f"no loss beyond the limits in any of {len(audit.statuses)} groups"
    elif status is Status.FAIL:
        detail = f"worse than the champion beyond the limits: {', '.join(named)}"
    else:
        detail = f"{len(named)} of {len(audit.statuses)} groups are too small or too uncertain to say"
    statuses: dict[str, Figure] = {f"{name}/status": found.value for name, found in audit.statuses.items()}
    return result("subgroups", gate, status, detail, {**audit.figures, **statuses})


def bundle(inspection: Inspection) -> GateResult:
    """Whether the bundle is the announced one and can be served."""
    if inspection.refusal is not None:
        return result("bundle", None, Status.FAIL, inspection.refusal)
    return result("bundle", None, Status.PASS, "what was announced")


def export_parity(gate: ExportParityGate, inspection: Inspection) -> GateResult:
    """Golden rows."""
    if inspection.golden_error is None:
        return result("export_parity", gate, Status.INSUFFICIENT, "the bundle has no golden rows")
    status = Status.PASS if inspection.golden_error <= gate.max_error else Status.FAIL
    detail = f"golden rows differ by {inspection.golden_error:.1e} at most"
    figures: dict[str, Figure] = {"max_error": inspection.golden_error, "golden_rows": inspection.golden_rows or 0}
    return result("export_parity", gate, status, detail, figures)


def latency(gate: LatencyGate, inspection: Inspection) -> GateResult:
    """Scoring one row."""
    if inspection.row_us is None:
        return result("latency", gate, Status.INSUFFICIENT, "the bundle has no golden rows")
    status = Status.PASS if inspection.row_us <= gate.max_microseconds else Status.FAIL
    return result(
        "latency", gate, status, f"one row takes {inspection.row_us:.0f} µs", {"microseconds": inspection.row_us}
    )


def bundle_size(gate: BundleSizeGate, inspection: Inspection) -> GateResult:
    """Bytes of all files."""
    size = inspection.size_bytes or 0
    status = Status.PASS if size <= gate.max_bytes else Status.FAIL
    return result("bundle_size", gate, status, f"the bundle has {size} bytes", {"bytes": size})


def freshness(gate: FreshnessGate, age: timedelta | None) -> GateResult:
    """Age of the newest training batch; None where it is not told."""
    if age is None:
        return result("freshness", gate, Status.INSUFFICIENT, "it is not told when the data came")
    days = age / timedelta(days=1)
    status = Status.PASS if days <= gate.max_age_days else Status.FAIL
    return result("freshness", gate, status, f"the newest data is {days:.1f} days old", {"age_days": days})


def batches(gate: BatchesGate, batch: int) -> GateResult:
    """How many batches there were."""
    status = Status.PASS if batch >= gate.min_batches else Status.FAIL
    return result("batches", gate, status, f"trained on batch {batch}", {"batches": batch})


def _above(interval: Interval | None, limit: float) -> Status:
    """Pass where the interval lies above the limit, fail where it does not reach it."""
    if interval is None:
        return Status.INSUFFICIENT
    if interval.low > limit:
        return Status.PASS
    return Status.FAIL if interval.high <= limit else Status.INSUFFICIENT


def _told(interval: Interval | None) -> str:
    return "not to be had" if interval is None else f"{interval.point:.4f} ({interval.low:.4f} to {interval.high:.4f})"
