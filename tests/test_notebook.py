"""The notebook runs from start to end on the live platform, leaves its runs in MLflow, and sees no test split."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import Platform

JUPYTER = Path(__file__).parents[1] / "infra" / "jupyter"
NOTEBOOK = JUPYTER / "experimentos.ipynb"
FAMILIES = {"logistic_regression": {"C", "class_weight"}, "decision_tree": {"max_depth", "min_samples_leaf"}}

Notebook = dict[str, Any]

live = pytest.mark.parametrize("platform", ["embedded"], indirect=True)


def environment(state_dir: Path) -> dict[str, str]:
    """What `eval "$(infra/jupyter/environment STATE_DIR)"` sets."""
    command = f'eval "$({JUPYTER / "environment"} {state_dir})" && env'
    said = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, check=True).stdout
    pairs = (line.partition("=") for line in said.splitlines())
    return {name: value for name, _, value in pairs if name.startswith(("ANALYST_", "MLFLOW_", "READMIT_INFERENCE_"))}


def execute(folder: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a copy of the notebook in `folder`; it then holds the outputs."""
    copy = Path(shutil.copy(NOTEBOOK, folder))
    # A process of its own: the client leaves sockets to the garbage collector.
    return subprocess.run(
        [Path(sys.executable).with_name("jupyter-execute"), "--inplace", "--timeout=300", copy],
        env=os.environ | settings, capture_output=True, text=True, check=False,
    )  # fmt: skip


def printed(notebook: Notebook, cell_id: str) -> str:
    """What a cell wrote."""
    (cell,) = [cell for cell in notebook["cells"] if cell["id"] == cell_id]
    return "".join("".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")


@pytest.fixture(scope="module")
def executed(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Notebook:
    """The notebook, run once on the live platform."""
    folder = tmp_path_factory.mktemp("notebook")
    ended = execute(folder, environment(platform.state_dir))
    assert ended.returncode == 0, ended.stderr
    notebook: Notebook = json.loads((folder / NOTEBOOK.name).read_text())
    return notebook


class Runs:
    """What the notebook's last execution left in MLflow."""

    def __init__(self, mlflow_url: str, parent_id: str) -> None:
        self._base = f"{mlflow_url}/api/2.0/mlflow"
        experiment = httpx.get(
            f"{self._base}/experiments/get-by-name", params={"experiment_name": "diabetes_readmission_experiment"}
        ).json()["experiment"]["experiment_id"]
        found: list[dict[str, Any]] = httpx.post(
            f"{self._base}/runs/search",
            json={"experiment_ids": [experiment], "filter": "tags.`readmit.source` = 'notebook'", "max_results": 1000},
        ).json()["runs"]
        self.parent = next(run for run in found if run["info"]["run_id"] == parent_id)
        self.families = {self.tags(run)["family"]: run for run in found if self.is_below(run, self.parent)}
        self.trials = {
            family: [run for run in found if self.is_below(run, parent)] for family, parent in self.families.items()
        }

    @property
    def all(self) -> list[dict[str, Any]]:
        return [self.parent, *self.families.values(), *(run for runs in self.trials.values() for run in runs)]

    def tags(self, run: dict[str, Any]) -> dict[str, str]:
        return {tag["key"]: tag["value"] for tag in run["data"]["tags"]}

    def is_below(self, run: dict[str, Any], parent: dict[str, Any]) -> bool:
        return bool(self.tags(run).get("mlflow.parentRunId") == parent["info"]["run_id"])

    def params(self, run: dict[str, Any]) -> dict[str, str]:
        return {param["key"]: param["value"] for param in run["data"].get("params", [])}

    def metrics(self, run: dict[str, Any]) -> dict[str, float]:
        return {metric["key"]: metric["value"] for metric in run["data"].get("metrics", [])}

    def artefacts(self, run: dict[str, Any], folder: str) -> dict[str, int]:
        listed = httpx.get(
            f"{self._base}/artifacts/list", params={"run_id": run["info"]["run_id"], "path": folder}
        ).json()
        return {file["path"]: int(file["file_size"]) for file in listed["files"]}


@pytest.fixture(scope="module")
def runs(platform: Platform, executed: Notebook) -> Runs:
    said = re.search(r"run (\w+) in experiment diabetes_readmission_experiment", printed(executed, "mlflow"))
    assert said is not None
    return Runs(platform.stack["urls"]["mlflow"], said[1])


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 10
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_without_its_settings_it_names_all_that_are_missing(tmp_path: Path) -> None:
    needed = ("ANALYST_POSTGRES_HOST", "ANALYST_POSTGRES_PASSWORD", "MLFLOW_TRACKING_URI", "READMIT_INFERENCE_URL")
    ended = execute(tmp_path, {**dict.fromkeys(needed, ""), "READMIT_SECRETS_DIR": str(tmp_path)})
    assert ended.returncode != 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", ended.stderr)
    said = re.search(r"RuntimeError: set (.+): infra/jupyter/README.md says how", plain)
    assert said is not None, plain
    assert set(needed) <= set(said[1].split(", "))


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_jupyter_does_not_start_without_a_token(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "JUPYTER_TOKEN").write_text(content)
    secrets = {"READMIT_SECRETS_DIR": str(tmp_path), "JUPYTER_WORK": str(tmp_path / "work")}
    ended = subprocess.run([JUPYTER / "start"], env=os.environ | secrets, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "no token" in ended.stderr
    assert str(tmp_path / "JUPYTER_TOKEN") in ended.stderr


@live
@pytest.mark.stack
@pytest.mark.timeout(600)
class TestOnTheLivePlatform:
    def test_every_cell_runs_and_every_picture_is_drawn(self, executed: Notebook) -> None:
        outputs = [output for cell in executed["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]
        assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
        assert sum("image/png" in output.get("data", {}) for output in outputs) == 7
        assert "SYNTHETIC" in printed(executed, "data")

    def test_its_role_cannot_read_the_test_split(self, executed: Notebook) -> None:
        assert "permission denied for table diabetes_test" in printed(executed, "test-split")

    def test_every_trial_of_the_grid_search_is_a_nested_run(self, runs: Runs) -> None:
        assert set(runs.families) == set(FAMILIES)
        assert {family: len(trials) for family, trials in runs.trials.items()} == {
            "logistic_regression": 4, "decision_tree": 6,
        }  # fmt: skip
        assert {run["info"]["status"] for run in runs.all} == {"FINISHED"}
        assert {runs.tags(run)["synthetic"] for run in runs.all} == {"true"}

    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_best_setting_of_the_grid_is_the_familys(self, runs: Runs, family: str) -> None:
        best = min(runs.trials[family], key=lambda run: runs.metrics(run)["cv_log_loss"])
        assert runs.params(runs.families[family]) == runs.params(best)
        assert set(runs.params(best)) == FAMILIES[family]
        figures = runs.metrics(runs.families[family])
        assert 0.55 < figures["validation_auroc_low"] < figures["validation_auroc"] < figures["validation_auroc_high"]

    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_confusion_matrix_is_an_artefact(self, runs: Runs, family: str) -> None:
        assert runs.artefacts(runs.families[family], "plots")["plots/confusion_matrix.png"] > 5_000

    def test_the_plots_are_artefacts_of_the_notebooks_run(self, runs: Runs) -> None:
        assert set(runs.artefacts(runs.parent, "plots")) == {"plots/exploration.png", "plots/curves.png"}

    def test_predict_readmission_answers_with_the_risk_of_the_model_in_service(
        self, platform: Platform, executed: Notebook
    ) -> None:
        said = re.search(r"risk ([\d.]+)%, threshold ([\d.]+)%, by (\w+) v(\d+) \(SYNTHETIC\)",
                         printed(executed, "predict"))  # fmt: skip
        assert said is not None
        assert 0 < float(said[1]) < 100
        champion = platform.get("promoter", "/champion")["champion"]
        assert (said[3], said[4]) == (champion["name"], champion["version"])
