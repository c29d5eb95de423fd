"""Pictures of one model on the validation patients, as PNG. Drawn with Matplotlib's objects: no state is shared.

Colours are two of Okabe and Ito's, which colour-blind people can tell apart, and grey.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from readmit_trainer.resampling import BINS, Interval, draws, weighted_curves

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Keys = NDArray[np.uint64]

_OURS, _OTHER, _GREY = "#0072B2", "#D55E00", "#777777"
_BAND = "95 % band, by draws of patients"
_SHOWN_FEATURES, _LONGEST_NAME = 25, 43
_HIGHEST_THRESHOLD = 0.5
_BAND_THRESHOLDS = 200
#: Of a recall that few patients make up, precision can be anything.
_LEAST_RECALL = 0.02


@dataclass(frozen=True, slots=True)
class LearningPoint:
    """What a family reached on the batches so far."""

    batch: int
    training_rows: int
    auroc: Interval


def pictures(
    risks: Floats,
    labels: Labels,
    patients: Keys,
    held_out: Labels,
    threshold: float,
    scores: Mapping[str, Interval],
    importances: Mapping[str, float],
    curve: Sequence[LearningPoint],
) -> dict[str, bytes]:
    """PNG files by name. What depends on the risks' size is drawn from the held-out rows, ranking from all.

    `scores` as `report.scores_of` gives them.
    """
    outside, truth = risks[held_out], labels[held_out]
    bands = bands_of(risks, labels, patients)
    return {
        "roc.png": _png(lambda axes: _roc(axes, risks, labels, scores["auroc"], bands)),
        "precision_recall.png": _png(
            lambda axes: _precision_recall(axes, risks, labels, scores["average_precision"], bands)
        ),
        "reliability.png": _png(lambda axes: _reliability(axes, outside, truth, scores["calibration_error"])),
        "decision_curve.png": _png(lambda axes: _decision_curve(axes, outside, truth, threshold)),
        "confusion_matrix.png": _png(lambda axes: _confusion(axes, outside, truth, threshold), left=0.2),
        "importances.png": _png(lambda axes: _importances(axes, importances), left=0.42),
        "learning_curve.png": _png(lambda axes: _learning(axes, curve)),
    }


@dataclass(frozen=True, slots=True)
class Bands:
    """95 % bands at each share of `grid` (g,): recall at that false alarm rate, precision at that recall, (2, g)."""

    grid: Floats
    recall: Floats
    precision: Floats


def bands_of(risks: Floats, labels: Labels, patients: Keys) -> Bands:
    """How far chance could move the curves at one place, by draws of patients."""
    thresholds = np.unique(np.quantile(risks, np.linspace(0, 1, _BAND_THRESHOLDS)))[::-1]
    grid = np.linspace(0, 1, 101)
    recalls, precisions = [], []
    for weights in draws(patients):
        hits, alarms = weighted_curves(risks, labels, thresholds, weights)
        for hit, alarm in zip(hits.T, alarms.T, strict=True):
            if hit[-1] and alarm[-1]:
                recall = hit / hit[-1]
                recalls.append(np.interp(grid, np.r_[0, alarm / alarm[-1]], np.r_[0, recall]))
                precisions.append(np.interp(grid, recall, hit / np.maximum(hit + alarm, 1)))
    ends = [0.025, 0.975]
    return Bands(grid, np.quantile(recalls, ends, axis=0), np.quantile(precisions, ends, axis=0))


def wilson(positives: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """95 % interval of a rate (Wilson 1927)."""
    z = 1.959964
    rate, share = positives / rows, z * z / rows
    middle = (rate + share / 2) / (1 + share)
    half = z * np.sqrt(rate * (1 - rate) / rows + share / (4 * rows)) / (1 + share)
    return middle - half, middle + half


def net_benefit(risks: Floats, labels: Labels, thresholds: Floats) -> Floats:
    """Net benefit per encounter at each threshold: hits less false alarms at its odds (Vickers and Elkin 2006)."""
    flagged = risks[np.newaxis] >= thresholds[:, np.newaxis]
    hits, alarms = (flagged & labels).mean(axis=1), (flagged & ~labels).mean(axis=1)
    return np.asarray(hits - alarms * thresholds / (1 - thresholds))


def _png(draw: Callable[[Axes], None], left: float = 0.12) -> bytes:
    # Fixed margins: a layout that measures every text first draws the figure twice.
    figure = Figure(figsize=(7, 5), dpi=115)
    figure.subplots_adjust(left=left, right=0.97, bottom=0.12, top=0.92)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", pil_kwargs={"compress_level": 3})
    return buffer.getvalue()


def _said(name: str, score: Interval) -> str:
    return f"{name} {score.value:.3f} (95 %: {score.low:.3f} to {score.high:.3f})"


def _roc(axes: Axes, risks: Floats, labels: Labels, score: Interval, bands: Bands) -> None:
    alarms, hits, _ = roc_curve(labels, risks)
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="chance")
    axes.fill_between(bands.grid, *bands.recall, color=_OURS, alpha=0.2, linewidth=0, label=_BAND)
    axes.plot(alarms, hits, color=_OURS, label=_said("AUROC", score))
    axes.set(
        title="ROC curve, validation patients",
        xlabel="False alarm rate (1 - specificity)",
        ylabel="Recall (sensitivity)",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes.legend(loc="lower right", frameon=False)


def _precision_recall(axes: Axes, risks: Floats, labels: Labels, score: Interval, bands: Bands) -> None:
    precision, recall, _ = precision_recall_curve(labels, risks)
    axes.axhline(labels.mean(), color=_GREY, linestyle=":", label=f"flag everybody: {labels.mean():.3f}")
    shown = bands.grid >= _LEAST_RECALL
    axes.fill_between(bands.grid[shown], *bands.precision[:, shown], color=_OURS, alpha=0.2, linewidth=0, label=_BAND)
    axes.plot(recall[:-1], precision[:-1], color=_OURS, label=_said("average precision", score))
    axes.set(
        title="Precision and recall, validation patients",
        xlabel="Recall",
        ylabel="Precision",
        xlim=(0, 1),
        ylim=(0, min(1.0, 1.15 * bands.precision[1, shown].max())),
    )
    axes.legend(loc="upper right", frameon=False)


def _reliability(axes: Axes, risks: Floats, labels: Labels, score: Interval) -> None:
    bins = np.array_split(np.argsort(risks, kind="stable"), BINS)
    expected = np.array([risks[part].mean() for part in bins])
    rows = np.array([float(len(part)) for part in bins])
    positives = np.array([float(labels[part].sum()) for part in bins])
    low, high = wilson(positives, rows)
    rate = positives / rows
    end = 1.08 * max(expected.max(), high.max())
    told, edges = np.histogram(risks, bins=40, range=(0, end))
    axes.stairs(
        told * (0.25 * end / told.max()), edges, fill=True, color="#DDDDDD", label="how often each risk is told"
    )
    axes.plot([0, end], [0, end], color=_GREY, linestyle=":", label="as told")
    axes.errorbar(expected, rate, yerr=[np.maximum(rate - low, 0), np.maximum(high - rate, 0)], fmt="o", color=_OURS,
                  capsize=3, label="tenths of the held-out patients, 95 %")  # fmt: skip
    axes.set(
        title=f"Reliability: {_said('calibration error', score)}", xlabel="Risk that was told (mean of a tenth)",
        ylabel="Share that was readmitted", xlim=(0, end), ylim=(0, end),
    )  # fmt: skip
    axes.legend(loc="upper left", frameon=False)


def _decision_curve(axes: Axes, risks: Floats, labels: Labels, threshold: float) -> None:
    thresholds = np.linspace(0.01, _HIGHEST_THRESHOLD, 100)
    treat_all = net_benefit(np.ones(len(labels)), labels, thresholds)
    model = net_benefit(risks, labels, thresholds)
    axes.axhline(0, color=_GREY, linestyle=":", label="follow up nobody")
    axes.plot(thresholds, treat_all, color=_OTHER, linestyle="--", label="follow up everybody")
    axes.plot(thresholds, model, color=_OURS, label="follow up by this model")
    axes.axvline(threshold, color=_GREY, linewidth=0.8, label=f"its threshold, {threshold:.3f}")
    axes.set(
        title="Decision curve, held-out patients", xlabel="Threshold: from which risk on a follow-up is worth while",
        ylabel="Net benefit per encounter", xlim=(0, _HIGHEST_THRESHOLD), ylim=(-0.02, 1.1 * max(model.max(), 0.02)),
    )  # fmt: skip
    axes.legend(loc="upper right", frameon=False)


def _confusion(axes: Axes, risks: Floats, labels: Labels, threshold: float) -> None:
    flagged = risks >= threshold
    counts = np.array([[(a & b).sum() for b in (~flagged, flagged)] for a in (~labels, labels)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.4)
    for actual in range(2):
        for told in range(2):
            axes.text(told, actual, f"{counts[actual, told]:,}\n{shares[actual, told]:.0%}", ha="center", va="center",
                      fontsize=14)  # fmt: skip
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([0, 1], ["not flagged", "flagged"])
    axes.set_yticks([0, 1], ["not readmitted", "readmitted"])
    axes.set(
        title="Encounters of held-out patients, and share of their row",
        xlabel=f"What the model says at the threshold of {threshold:.3f}",
        aspect="auto",
    )


def _importances(axes: Axes, importances: Mapping[str, float]) -> None:
    top = list(importances.items())[:_SHOWN_FEATURES][::-1]
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name, _ in top]
    axes.barh(range(len(top)), [share for _, share in top], color=_OURS, tick_label=names)
    axes.margins(y=0.01)
    axes.tick_params(axis="y", labelsize=8)
    axes.set(title=f"The {len(top)} most important features", xlabel="Share of all importance")


def _learning(axes: Axes, curve: Sequence[LearningPoint]) -> None:
    batches = [point.batch for point in curve]
    values = np.array([point.auroc.value for point in curve])
    low, high = (np.array([getattr(point.auroc, end) for point in curve]) for end in ("low", "high"))
    axes.errorbar(batches, values, yerr=[values - low, high - values], fmt="o-", color=_OURS, capsize=4)
    for point in curve:
        axes.annotate(f"{point.training_rows:,}", (point.batch, point.auroc.high), textcoords="offset points",
                      xytext=(0, 6), ha="center", fontsize=9, color=_GREY)  # fmt: skip
    axes.set_xticks(batches)
    axes.set(
        title="Learning curve over batches", xlabel="Batch; above each: the encounters that the fit read",
        ylabel="Validation AUROC (95 % interval)", xlim=(min(batches) - 0.5, max(batches) + 0.5),
    )  # fmt: skip
    axes.margins(y=0.1)
