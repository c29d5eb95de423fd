"""Models for benchmarks of serving that are as large as real ones: what the trainer makes of the synthetic sample."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import pyarrow as pa

from readmit_bundle import Bundle
from readmit_bundle.archive import FILES
from readmit_contracts.encounter import COLUMNS, NOT_READMITTABLE, POSITIVE_OUTCOME
from readmit_contracts.events import BatchReady
from readmit_features.history import with_history
from readmit_features.split import splits_of
from readmit_features.synthetic import sample_columns
from readmit_features.table import clean_table
from readmit_trainer.candidate import Choices, encode, make_candidate
from readmit_trainer.dataset import Training
from readmit_trainer.search import Budget, Trial

_DIGEST = "0" * 64
_LABEL = "readmitted_30d"
#: Of the synthetic sample; few enough to be fitted in seconds, enough for some hundred features.
_ROWS = 20_000
#: The champion of all batches of the real data has 436 trees.
_TREES = (436, 400)


def two_bundles(folders: list[Path] | None) -> tuple[Bundle, Bundle]:
    """Two that differ: from folders that hold bundle.json and model.txt, or else made here, in half a minute."""
    if folders:
        first, second = (Bundle({name: (folder / name).read_bytes() for name in FILES}) for folder in folders)
        return first, second
    splits = _sample()
    data = encode(Training(splits["train"], 1, (_DIGEST,)), splits["validation"], Choices())
    event = BatchReady(
        dataset_version=1, content_sha256=_DIGEST, schema_sha256=_DIGEST, batch=1, batches_total=1,
        rows=len(splits["train"]), positives=int(splits["train"][_LABEL].sum()), batch_sha256=_DIGEST, synthetic=True,
    )  # fmt: skip
    settled = {"num_leaves": 15, "min_child_samples": 20, "feature_fraction": 0.5, "lambda_l2": 1.0}
    made = []
    for trees in _TREES:
        # A search that has been made already: what takes minutes is the search.
        known = Trial(0, settled, (0.0,), "complete", 0.0, settled | {"num_trees": trees})
        choices = Choices(budget=Budget(trials=1, seconds=1.0))
        candidate = make_candidate("lightgbm", data, event, choices, code_version="benchmark", known=[known])
        made.append(candidate.bundle)
    return made[0], made[1]


def bundle_option(parser: argparse.ArgumentParser) -> None:
    """`--bundle DIR`, twice."""
    parser.add_argument(
        "--bundle", type=Path, nargs=2, metavar="DIR", dest="bundles",
        help="two folders with bundle.json and model.txt, in place of models made of the synthetic sample",
    )  # fmt: skip


def _sample() -> dict[str, pd.DataFrame]:
    made = sample_columns(_ROWS)
    cells = pa.table({column.name: made[column.name] for column in COLUMNS})
    frame = clean_table(cells).table.to_pandas()
    frame.columns = pd.Index([column.key for column in COLUMNS])
    frame = frame[~frame["discharge_disposition_id"].isin(NOT_READMITTABLE)]
    frame[_LABEL] = frame["readmitted"] == POSITIVE_OUTCOME
    frame["split"] = splits_of(frame["patient_nbr"].tolist())
    frame = frame.sort_values("encounter_id", ignore_index=True)
    return {split: with_history(part.reset_index(drop=True)) for split, part in frame.groupby("split")}
