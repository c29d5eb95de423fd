"""Rules of Prometheus and routes of Alertmanager, by their own tools; every alert is tested and has its runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from readmit_local.observation import alertmanager_config

from .conftest import REQUIRED

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "infra" / "prometheus"
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RULES = {path.stem: yaml.safe_load(path.read_text()) for path in (PROMETHEUS / "rules").glob("*.yml")}
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in RULES["alerts"]["groups"] for rule in group["rules"]
}


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        if "prometheus" in REQUIRED:
            pytest.fail(f"READMIT_REQUIRE names prometheus, but {name} is not on PATH")
        pytest.skip(f"{name} is not installed")
    return path


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def test_prometheus_takes_its_configuration_and_every_alert_behaves() -> None:
    promtool = tool("promtool")
    for checked in (
        run(promtool, "check", "config", PROMETHEUS / "prometheus.yml"),
        run(promtool, "test", "rules", *TESTS),
    ):
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_rule_that_does_not_do_what_its_test_says_is_noticed(tmp_path: Path) -> None:
    promtool = tool("promtool")
    shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    alerts = tmp_path / "prometheus" / "rules" / "alerts.yml"
    alerts.write_text(alerts.read_text().replace("model_load_seconds > 2", "model_load_seconds > 4"))
    checked = run(promtool, "test", "rules", tmp_path / "prometheus" / "tests" / "alerts.yml")
    assert checked.returncode != 0
    assert "ModelLoadSlow" in checked.stdout + checked.stderr


def test_every_alert_is_shown_to_fire_and_to_stay_quiet() -> None:
    shown: dict[str, set[bool]] = {}
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for expected in test["alert_rule_test"]:
                shown.setdefault(expected["alertname"], set()).add(bool(expected["exp_alerts"]))
    assert shown == {name: {True, False} for name in ALERTS}


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    chapters = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    assert sorted(chapters) == sorted(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"


def test_prometheus_scrapes_every_15_seconds() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert config["global"]["scrape_interval"] == config["global"]["evaluation_interval"] == "15s"


@pytest.mark.parametrize(
    ("severity", "receiver"), [("page", "page"), ("ticket", "ticket"), ("info", "nobody"), ("unheard_of", "ticket")]
)
def test_an_alert_goes_to_whom_its_severity_says(severity: str, receiver: str, tmp_path: Path) -> None:
    amtool = tool("amtool")
    shared = yaml.safe_load((ROOT / "infra" / "alertmanager" / "alertmanager.yml").read_text())
    config = tmp_path / "alertmanager.yml"
    config.write_text(yaml.safe_dump(alertmanager_config(shared, "http://127.0.0.1:1/hook")))
    assert run(amtool, "check-config", config).returncode == 0
    routed = run(amtool, "config", "routes", "test", f"--config.file={config}", f"severity={severity}")
    assert routed.stdout.strip() == receiver


def test_every_severity_is_one_that_alertmanager_routes() -> None:
    assert {rule["labels"]["severity"] for rule in ALERTS.values()} == {"page", "ticket", "info"}
