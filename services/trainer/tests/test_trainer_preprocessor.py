"""The preprocessor for notebooks: scikit-learn alone can load it, and nothing of ours ever does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from readmit_contracts.encounter import FEATURE_COLUMNS, Kind
from readmit_trainer.preprocessor import as_texts, preprocessor_bytes

COUNTS = [column.key for column in FEATURE_COLUMNS if column.kind is Kind.COUNT]
NOTEBOOK = """
import sys
import joblib, pandas
preprocessor = joblib.load("preprocessor.joblib")
rows = preprocessor.transform(pandas.read_pickle("rows.pkl"))
print(rows.shape[0], rows.shape[1] == len(preprocessor.get_feature_names_out()))
print(sorted(name for name in sys.modules if name.startswith("readmit")))
"""


def test_a_notebook_with_scikit_learn_alone_can_use_it(encounters: pd.DataFrame, tmp_path: Path) -> None:
    train = encounters[encounters["split"] == "train"].head(3_000)
    data = preprocessor_bytes(train, train["readmitted_30d"].to_numpy(dtype=bool))
    (tmp_path / "preprocessor.joblib").write_bytes(data)
    new = encounters[encounters["split"] == "validation"].head(200)
    as_texts(new, COUNTS).to_pickle(tmp_path / "rows.pkl")
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split("\n")[:2] == ["200 True", "[]"]


@pytest.mark.parametrize("package", ["readmit_trainer", "readmit_bundle", "readmit_inference", "readmit_promoter"])
def test_no_code_of_ours_loads_a_pickle(package: str) -> None:
    module = pytest.importorskip(package, reason="the trainer is installed alone")
    for path in Path(str(module.__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {
                    ("joblib", "load"),
                    ("pickle", "load"),
                    ("pickle", "loads"),
                }, path
