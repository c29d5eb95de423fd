"""Draw a decision of the promoter: its gates, its groups, and what both models said of the validation patients.

Everything is read from what the ledger keeps: the decision as `GET /decisions/{id}` gives it, and the two files of
evidence that it names by their digests.

    readmit decisions show ID --json > decision.json
    python benchmarks/decision_plots.py decision.json candidate.npz champion.npz docs/images/decision.svg
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

# Okabe and Ito's: colour-blind people can tell them apart.
_CANDIDATE, _CHAMPION, _GREY = "#0072B2", "#D55E00", "#777777"
_COLOURS = {"pass": "#009E73", "fail": "#D55E00", "insufficient_evidence": "#E69F00", "not_applicable": _GREY}
#: Figures with an interval, and the entry of the policy that is their limit: name, gate, limit, sign, scale.
_SHOWN = (
    ("auroc_difference", "champion", None, "AUROC less the champion's"),
    ("calibration_error", "calibration", "max_error", "calibration error"),
    ("in_the_large", "calibration", "max_in_the_large", "observed less expected"),
    ("net_benefit_gain", "net_benefit", "above_default", "net benefit over everybody or nobody"),
    ("net_benefit_difference", "net_benefit", "max_loss", "net benefit less the champion's"),
)
_BINS = 10


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("decision", type=Path)
    parser.add_argument("candidate", type=Path, help="its evidence")
    parser.add_argument("champion", type=Path, help="the evidence of the champion that it was compared with")
    parser.add_argument("picture", type=Path, help=".svg or .png")
    options = parser.parse_args()
    decision = json.loads(options.decision.read_text())["judgement"]["fact"]["decision"]
    case, gates = decision["case"], {gate["gate"]: gate for gate in decision["verdict"]["gates"]}
    candidate = evidence(options.candidate, case["event"]["evidence"]["sha256"])
    champion = evidence(options.champion, case["champion"]["evidence"]["sha256"])
    mpl.rcParams.update({"svg.hashsalt": "readmit", "font.size": 8, "svg.fonttype": "none"})
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    (upper_left, upper_right), (lower_left, lower_right) = figure.subplots(2, 2)
    draw_gates(upper_left, gates)
    draw_groups(upper_right, gates["subgroups"])
    draw_calibration(lower_left, candidate, champion)
    draw_net_benefit(lower_right, candidate, champion, gates["net_benefit"]["figures"]["threshold"])
    figure.savefig(options.picture, metadata={"Date": None} if options.picture.suffix == ".svg" else None)


def evidence(path: Path, sha256: str) -> Arrays:
    """The arrays, once their digest is that of the decision."""
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise SystemExit(f"{path} is not the evidence {sha256[:12]} that the decision names")
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def draw_gates(axes: Axes, gates: Mapping[str, Any]) -> None:
    """Intervals of what is compared with a limit."""
    rows = [row for row in _SHOWN if f"{row[0]}_low" in gates[row[1]]["figures"]]
    for place, (name, gate, limit, _) in enumerate(rows):
        found = gates[gate]
        figures, colour = found["figures"], _COLOURS[found["status"]]
        axes.plot([figures[f"{name}_low"], figures[f"{name}_high"]], [place, place], color=colour, lw=3)
        axes.plot(figures[name], place, "o", color=colour)
        for end in limits(name, found["thresholds"], limit):
            axes.plot([end, end], [place - 0.3, place + 0.3], color="black", lw=1.5)
    axes.set_yticks(range(len(rows)), [label for *_, label in rows])
    axes.invert_yaxis()
    axes.axvline(0, color=_GREY, lw=0.5)
    axes.set_title("Gates: 90 % intervals, and their limits (black)\ngreen: pass; orange: settles nothing; red: fail")


def limits(name: str, thresholds: Mapping[str, Any], limit: str | None) -> Iterator[float]:
    """Where the interval has to be above, below or between."""
    if limit is None:
        yield -float(thresholds["margin"])
    elif name == "in_the_large":
        yield from (-thresholds[limit], thresholds[limit])
    elif name == "net_benefit_difference":
        yield -thresholds[limit]
    else:
        yield thresholds[limit]


def draw_groups(axes: Axes, gate: Mapping[str, Any]) -> None:
    """Loss of AUROC in each group that is large enough to be measured."""
    figures = gate["figures"]
    names = [name.removesuffix("/auroc_loss") for name in figures if name.endswith("/auroc_loss")]
    for place, name in enumerate(names):
        colour = _COLOURS[figures[f"{name}/status"]]
        ends = [figures[f"{name}/auroc_loss_{end}"] for end in ("low", "high")]
        axes.plot(ends, [place, place], color=colour, lw=3)
        axes.plot(figures[f"{name}/auroc_loss"], place, "o", color=colour)
    axes.set_yticks(range(len(names)), [f"{name} ({figures[f'{name}/patients']:,} patients)" for name in names])
    axes.invert_yaxis()
    axes.axvline(0, color=_GREY, lw=0.5)
    axes.axvline(gate["thresholds"]["max_auroc_loss"], color="black", lw=1.5)
    axes.set_title("AUROC that groups lose against the champion (limit: black)\nleft of 0: they gain")


def draw_calibration(axes: Axes, candidate: Arrays, champion: Arrays) -> None:
    """Observed rate by mean risk, in tenths of the rows that calibration did not see."""
    for name, arrays, colour in (("candidate", candidate, _CANDIDATE), ("champion", champion, _CHAMPION)):
        outside = arrays["held_out"] == 1
        risk, label = arrays["risk"][outside], arrays["label"][outside]
        parts = np.array_split(np.argsort(risk, kind="stable"), _BINS)
        axes.plot([risk[part].mean() for part in parts], [label[part].mean() for part in parts], "o-", color=colour,
                  label=name)  # fmt: skip
    end = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([0, end], [0, end], color=_GREY, lw=0.7)
    axes.set(xlabel="mean risk", ylabel="readmitted within 30 days")
    axes.set_title("Calibration, in tenths of the held-out rows")
    axes.legend()


def draw_net_benefit(axes: Axes, candidate: Arrays, champion: Arrays, threshold: float) -> None:
    """Decision curve (Vickers and Elkin 2006): of both models, and of following up everybody."""
    thresholds = np.linspace(0.02, 0.4, 120)
    odds = thresholds / (1 - thresholds)
    for name, arrays, colour in (("candidate", candidate, _CANDIDATE), ("champion", champion, _CHAMPION)):
        risk, label = arrays["risk"], arrays["label"] == 1
        alerts = risk[:, None] >= thresholds[None, :]
        benefit = (alerts & label[:, None]).mean(axis=0) - (alerts & ~label[:, None]).mean(axis=0) * odds
        axes.plot(thresholds, benefit, color=colour, label=name)
    rate = (candidate["label"] == 1).mean()
    axes.plot(thresholds, rate - (1 - rate) * odds, color=_GREY, lw=0.8, label="everybody")
    axes.axhline(0, color="black", lw=0.8, label="nobody")
    axes.axvline(threshold, color=_GREY, ls=":", label=f"threshold in use, {threshold:.3f}")
    axes.set(xlabel="threshold", ylabel="net benefit per encounter", ylim=(-0.01, None))
    axes.set_title("Who is followed up: net benefit by threshold")
    axes.legend()


if __name__ == "__main__":
    main()
