"""How good our champion is on the test patients, beside AutoML, scikit-learn and the recipe that this replaces.

    python benchmarks/quality.py tables --source diabetes-130-us-hospitals.zip --to DIR
    python benchmarks/automl.py flaml --minutes 10 --tables DIR        (and autogluon, and 60; see that file)
    python benchmarks/quality.py report --tables DIR [--to docs/quality.md]

`tables` splits the source as the ingestor does, by patient, and writes the flat tables that everybody gets: 47 columns
of an encounter and the label, with the patient's number to group by. `test.csv` has no label and no patient.
`report` fits ours (the trainer's code, its default search), scikit-learn's defaults and the original's recipe, reads
what AutoML answered, and only then reads the test labels, once.

Ours sees in addition what the earlier encounters of the same patient say (history), which a flat table does not hold;
its row "without history" answers with nobody's history known.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from readmit_bundle import load_model
from readmit_contracts.encounter import COLUMNS, FEATURE_COLUMNS, NOT_READMITTABLE, POSITIVE_OUTCOME, Kind
from readmit_contracts.events import BatchReady
from readmit_features.frame import encode_frame
from readmit_features.history import with_history, without_history
from readmit_features.split import splits_of
from readmit_features.table import clean_table
from readmit_trainer.candidate import Choices, Encoded, encode, make_candidate
from readmit_trainer.dataset import Training
from readmit_trainer.domain import FAMILIES

Floats = NDArray[np.float64]

LABEL, PATIENT = "readmitted_30d", "patient_nbr"
_KEPT = "every.parquet"
_RESAMPLES = 1000
_BINS = 10
_MEASURES = ("AUROC", "average precision", "Brier score", "calibration error")


@dataclass(frozen=True)
class Answer:
    """What one contender says of the test rows, and how long it took to get there on how many cores."""

    name: str
    risks: Floats
    seconds: float | None


def read_source(path: Path) -> pd.DataFrame:
    """All encounters that can be followed by a readmission, cleaned, in encounter order, with label and split."""
    with zipfile.ZipFile(path) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("diabetic_data.csv")]
        raw = archive.read(name)
    as_text = pyarrow.csv.ConvertOptions(
        column_types={column.name: pa.string() for column in COLUMNS}, strings_can_be_null=False
    )
    cells = pyarrow.csv.read_csv(io.BytesIO(raw), convert_options=as_text).select([c.name for c in COLUMNS])
    frame = clean_table(cells).table.to_pandas()
    frame.columns = pd.Index([column.key for column in COLUMNS])
    frame = frame[~frame["discharge_disposition_id"].isin(NOT_READMITTABLE)]
    frame[LABEL] = frame["readmitted"] == POSITIVE_OUTCOME
    frame["split"] = splits_of(frame[PATIENT].tolist())
    ordered: pd.DataFrame = frame.sort_values("encounter_id", ignore_index=True)
    return ordered


def write_tables(source: Path, folder: Path) -> None:
    """The three flat tables, what of them is a count, and everything for `report`."""
    folder.mkdir(parents=True, exist_ok=True)
    every = read_source(source)
    every.to_parquet(folder / _KEPT)
    flat = every.drop(columns=["encounter_id", "readmitted"])
    for split in ("train", "validation"):
        flat[flat["split"] == split].drop(columns="split").to_csv(folder / f"{split}.csv", index=False)
    flat[flat["split"] == "test"].drop(columns=["split", PATIENT, LABEL]).to_csv(folder / "test.csv", index=False)
    (folder / "counts.json").write_text(json.dumps([c.key for c in COLUMNS if c.kind is Kind.COUNT]))
    print(every["split"].value_counts().to_string())


def ours(every: pd.DataFrame) -> list[Answer]:
    """The three families, fitted as the trainer does after the last batch; the champion is chosen on validation."""
    parts = {split: with_history(part.reset_index(drop=True)) for split, part in every.groupby("split")}
    choices = Choices()
    started = time.perf_counter()
    data, event = encoded(parts, choices)
    encoded_s = time.perf_counter() - started
    answers: list[Answer] = []
    best = 0.0
    for family in FAMILIES:
        started = time.perf_counter()
        candidate = make_candidate(family, data, event, choices, code_version="benchmark")
        seconds = encoded_s + time.perf_counter() - started
        model = load_model(candidate.bundle)
        label = family.replace("_", " ")
        both = [
            Answer(f"ours, {label}", model.score_matrix(_encoded(data, parts["test"])), seconds),
            Answer(
                f"ours, {label}, without history",
                model.score_matrix(_encoded(data, without_history(parts["test"]))),
                seconds,
            ),
        ]
        print(f"{family}: {seconds:.0f} s, validation AUROC {candidate.scores.auroc:.4f}", flush=True)
        answers = both + answers if candidate.scores.auroc > best else answers + both
        best = max(best, candidate.scores.auroc)
    champion = replace(answers[0], name=f"**Readmit champion** ({answers[0].name.removeprefix('ours, ')})")
    return [champion, *answers[1:]]


def encoded(parts: dict[str, pd.DataFrame], choices: Choices) -> tuple[Encoded, BatchReady]:
    """What the trainer's families see of these splits (with history), and the event that would have brought them."""
    digest = "0" * 64
    event = BatchReady(
        dataset_version=1, content_sha256=digest, schema_sha256=digest, batch=1, batches_total=1,
        rows=len(parts["train"]), positives=int(parts["train"][LABEL].sum()), batch_sha256=digest, synthetic=False,
    )  # fmt: skip
    return encode(Training(parts["train"], 1, (digest,)), parts["validation"], choices), event


def _encoded(data: Encoded, frame: pd.DataFrame) -> Floats:
    return encode_frame(data.spec, frame)


def scikit_learn(every: pd.DataFrame) -> list[Answer]:
    """Three models with all defaults, on training and validation: one-hot columns, ordinal ones for boosted trees."""
    columns = [column.key for column in FEATURE_COLUMNS]
    counts = [column.key for column in FEATURE_COLUMNS if column.kind is Kind.COUNT]
    texts = [key for key in columns if key not in counts]
    known, asked = (every[where] for where in (every["split"] != "test", every["split"] == "test"))
    one_hot = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), counts),
        (OneHotEncoder(handle_unknown="ignore"), texts),
    )
    ordinal = make_column_transformer(
        ("passthrough", counts), (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), texts)
    )
    models = {
        "scikit-learn, HistGradientBoostingClassifier()": make_pipeline(
            ordinal, HistGradientBoostingClassifier(random_state=0)
        ),
        "scikit-learn, RandomForestClassifier()": make_pipeline(one_hot, RandomForestClassifier(random_state=0)),
        "scikit-learn, LogisticRegression()": make_pipeline(one_hot, LogisticRegression(max_iter=1000)),
    }
    answers = []
    for name, model in models.items():
        started = time.perf_counter()
        model.fit(_texts(known, texts), known[LABEL])
        answers.append(Answer(name, model.predict_proba(_texts(asked, texts))[:, 1], time.perf_counter() - started))
    return answers


def the_original(every: pd.DataFrame) -> Answer:
    """Its recipe, scored honestly: the first 500 rows, 10 trees, every column a number, both identifiers among them."""
    columns = [column.key for column in COLUMNS if column.key != "readmitted"]
    counts = [column.key for column in COLUMNS if column.is_number]
    texts = [key for key in columns if key not in counts]
    model = make_pipeline(
        make_column_transformer(
            (SimpleImputer(strategy="median"), [key for key in columns if key in counts]),
            (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), texts),
        ),
        RandomForestClassifier(n_estimators=10, random_state=0),
    )
    started = time.perf_counter()
    first = every[every["split"] == "train"].head(500)
    model.fit(_texts(first, texts), first[LABEL])
    risks = model.predict_proba(_texts(every[every["split"] == "test"], texts))[:, 1]
    return Answer("the original's recipe (500 rows, 10 trees)", risks, time.perf_counter() - started)


def automl(folder: Path) -> list[Answer]:
    """What `automl.py` left: the risks of the test rows, and its time."""
    names = {"flaml": "FLAML", "autogluon": "AutoGluon best_quality"}
    answers = []
    for tool, name in names.items():
        for note in sorted(folder.glob(f"{tool}-*.json"), key=lambda path: float(path.stem.partition("-")[2])):
            told = json.loads(note.read_text())
            minutes = float(note.stem.partition("-")[2])
            if minutes < 1:  # a try, not a run
                continue
            risks = pd.read_csv(note.with_suffix(".csv"))["risk"].to_numpy(dtype=np.float64)
            answers.append(Answer(f"{name}, {minutes:g} minutes", risks, told["seconds"]))
    return answers


def _texts(frame: pd.DataFrame, texts: list[str]) -> pd.DataFrame:
    """Every column that is no count as text, missing as a value of its own; counts as floats."""
    told = {key: frame[key].astype("object").where(frame[key].notna(), "?").astype(str) for key in texts}
    numbers = {c.key: frame[c.key].astype("float64") for c in COLUMNS if c.is_number and c.key not in texts}
    return frame.assign(**told, **numbers)


def calibration_error(risks: Floats, labels: Floats, weights: Floats, order: NDArray[np.int64]) -> float:
    """Expected calibration error over ten bins of as many rows, in the order of risk."""
    gaps = weights * (risks - labels)
    return float(sum(abs(gaps[part].sum()) for part in np.array_split(order, _BINS)) / weights.sum())


def measures(risks: Floats, labels: Floats, weights: Floats, order: NDArray[np.int64]) -> tuple[float, ...]:
    """The four measures of weighted rows."""
    return (
        float(roc_auc_score(labels, risks, sample_weight=weights)),
        float(average_precision_score(labels, risks, sample_weight=weights)),
        float(np.average((risks - labels) ** 2, weights=weights)),
        calibration_error(risks, labels, weights, order),
    )


def report(folder: Path) -> str:
    """The table, as Markdown."""
    every = pd.read_parquet(folder / _KEPT)
    answers = [*ours(every), *scikit_learn(every), the_original(every), *automl(folder)]
    test = every[every["split"] == "test"]
    labels = test[LABEL].to_numpy(dtype=np.float64)
    index = np.unique(test[PATIENT].to_numpy(), return_inverse=True)[1]
    patients = int(index.max()) + 1
    random = np.random.default_rng(0)
    ones = np.ones(len(labels))
    orders = [np.argsort(answer.risks, kind="stable") for answer in answers]
    points = [measures(a.risks, labels, ones, order) for a, order in zip(answers, orders, strict=True)]
    drawn = np.empty((_RESAMPLES, len(answers), len(_MEASURES)))
    for resample in range(_RESAMPLES):
        weights = np.bincount(random.integers(patients, size=patients), minlength=patients)[index].astype(np.float64)
        for place, (answer, order) in enumerate(zip(answers, orders, strict=True)):
            drawn[resample, place] = measures(answer.risks, labels, weights, order)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    # Noise only pushes a calibration error up, a resample's beyond the sample's: reflected, as in the trainer.
    error = np.array([point[3] for point in points])
    low[:, 3], high[:, 3] = (
        np.maximum(0, np.minimum(error, 2 * error - high[:, 3])),
        np.maximum(error, 2 * error - low[:, 3]),
    )
    behind = np.quantile(drawn[:, :1, 0] - drawn[:, :, 0], [0.025, 0.975], axis=0)
    lines = [
        f"{len(labels):,} test encounters of {patients:,} patients, {labels.mean():.1%} readmitted within 30 days.",
        "",
        "| model | " + " | ".join(_MEASURES) + " | AUROC behind the champion | seconds |",
        "| --- |" + " --- |" * (len(_MEASURES) + 2),
    ]
    for place, answer in enumerate(answers):
        cells = [f"{points[place][m]:.4f} ({low[place, m]:.4f} to {high[place, m]:.4f})" for m in range(len(_MEASURES))]
        gap = (
            ""
            if place == 0
            else (f"{points[0][0] - points[place][0]:.4f} ({behind[0, place]:.4f} to {behind[1, place]:.4f})")
        )
        took = "" if answer.seconds is None else f"{answer.seconds:,.0f}"
        lines.append(f"| {answer.name} | {' | '.join(cells)} | {gap} | {took} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the tables, or the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    tables = what.add_parser("tables", help="split the source and write the flat tables")
    tables.add_argument("--source", type=Path, required=True, help="the UCI archive")
    tables.add_argument("--to", type=Path, required=True, help="folder of the tables")
    told = what.add_parser("report", help="fit, score the test rows once, print the table")
    told.add_argument("--tables", type=Path, required=True, help="folder that `tables` wrote and `automl.py` added to")
    told.add_argument("--to", type=Path, help="a Markdown file; its part below the line `<!-- table -->` is replaced")
    options = parser.parse_args()
    if options.what == "tables":
        write_tables(options.source, options.to)
        return
    text = report(options.tables)
    print(text)
    if options.to is not None:
        head, mark, _ = options.to.read_text().partition("<!-- table -->\n")
        options.to.write_text(f"{head}{mark}{text}")


if __name__ == "__main__":
    main()
