"""The dashboards: as generated, complete, understood by Prometheus and by Grafana's own types."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from .conftest import REQUIRED
from .grafana_queries import annotation_queries, dashboards, panel_queries, panels, substituted

ROOT = Path(__file__).parents[1]
GRAFANA = ROOT / "infra/grafana"
SCHEMA = GRAFANA / "schema"
FOUR = {"loop": "The loop", "serving": "Serving", "model": "Model", "platform": "Platform"}


def unavailable(tool: str, reason: str) -> NoReturn:
    if tool in REQUIRED:
        pytest.fail(f"READMIT_REQUIRE names {tool}, but {reason}")
    pytest.skip(reason)


def generate(action: str, root: Path) -> subprocess.CompletedProcess[str]:
    """The generator, with another order of sets each time."""
    return subprocess.run(
        [sys.executable, "-m", "readmit_dashboards", action, str(root)],
        cwd=GRAFANA, env={**os.environ, "PYTHONHASHSEED": "random"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


# --- generated -------------------------------------------------------------------------------------------------------


def test_committed_dashboards_are_what_the_code_generates() -> None:
    checked = generate("check", ROOT)
    assert checked.returncode == 0, checked.stderr


def test_generation_is_reproducible_and_a_change_by_hand_is_found(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs/runbooks.md", tmp_path / "docs")
    assert generate("write", tmp_path).returncode == 0
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 1 + 5 + 1 + 4  # runbooks.md, dashboards, docs, pictures
    for path in written:
        assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes(), path

    changed = tmp_path / "infra/grafana/dashboards/loop.json"
    changed.write_text(changed.read_text().replace("The loop", "The hoop"))
    checked = generate("check", tmp_path)
    assert checked.returncode == 1
    assert "dashboards/loop.json is stale" in checked.stderr


# --- provisioned -----------------------------------------------------------------------------------------------------


def test_the_four_dashboards_are_provisioned_under_fixed_addresses_in_one_folder() -> None:
    found = dashboards()
    assert {name: (found[name]["title"], found[name]["uid"]) for name in FOUR} == {
        name: (title, f"readmit-{name}") for name, title in FOUR.items()
    }
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/readmit.yml").read_text())["providers"]
    assert provider["folder"] == "Readmit"
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert f"./infra/grafana/dashboards:{provider['options']['path']}:ro" in compose["services"]["grafana"]["volumes"]
    assert "./infra/grafana/provisioning:/etc/grafana/provisioning:ro" in compose["services"]["grafana"]["volumes"]


def test_every_query_goes_to_the_provisioned_prometheus() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert (source["uid"], source["type"], source["url"]) == ("prometheus", "prometheus", "http://prometheus:9090")
    for dashboard in dashboards().values():
        used = re.findall(r'"uid": "(\w+)"', json.dumps([dashboard["panels"], dashboard["templating"]]))
        assert set(used) <= {source["uid"]}


# --- complete --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOUR)
def test_every_panel_says_what_it_shows_in_which_unit_with_limits(name: str) -> None:
    for panel in panels(dashboards()[name]):
        assert panel["title"]
        assert len(panel["description"]) > 40, f"{panel['title']} does not say what to do about it"
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], panel["title"]
        steps = [step["value"] for step in defaults["thresholds"]["steps"]]
        assert steps[0] is None, panel["title"]
        assert steps[1:] == sorted(steps[1:]), panel["title"]
        assert panel["targets"], panel["title"]


@pytest.mark.parametrize(
    ("name", "title", "limit"),
    [
        ("serving", "Latency, P95", 0.5),
        ("serving", "Latency", 0.5),
        ("serving", "Errors", 0.001),
        ("serving", "CPU", 0.8),
        ("serving", "Memory", 1.5 * 1024**3),
        ("serving", "Model load", 2),
        ("platform", "CPU", 0.8),
        ("platform", "Memory", 1.5 * 1024**3),
    ],
)
def test_a_key_metric_of_the_original_turns_red_at_its_limit(name: str, title: str, limit: float) -> None:
    (panel,) = (panel for panel in panels(dashboards()[name]) if panel["title"] == title)
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps == [{"color": "green", "value": None}, {"color": "red", "value": limit}]


@pytest.mark.parametrize("name", [*FOUR, "runbooks"])
def test_panels_lie_side_by_side_within_the_grid(name: str) -> None:
    found = dashboards()[name]["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    cells: set[tuple[int, int]] = set()
    for panel in found:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        mine = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not cells & mine, f"{panel['title']} covers another panel"
        cells |= mine


@pytest.mark.parametrize("name", FOUR)
def test_variables_are_declared_where_they_are_used_and_used_where_they_are_declared(name: str) -> None:
    dashboard = dashboards()[name]
    declared = {variable["name"] for variable in dashboard["templating"].get("list", [])}
    asked = json.dumps([dashboard["panels"], [v["query"] for v in dashboard["templating"].get("list", [])]])
    used = {variable for variable in re.findall(r"\$(\w+)", asked) if not variable.startswith("__")}
    assert used == declared


@pytest.mark.parametrize("name", FOUR)
def test_dashboards_lead_to_each_other_and_mark_promotions_and_pages(name: str) -> None:
    dashboard = dashboards()[name]
    assert "readmit" in dashboard["tags"]
    (link,) = dashboard["links"]
    assert (link["type"], link["tags"]) == ("dashboards", ["readmit"])
    promotions, pages = dashboard["annotations"]["list"]
    assert "changes(champion_epoch" in promotions["expr"]
    assert 'severity="page"' in pages["expr"]


def test_a_panel_leads_to_the_chapters_of_its_alerts() -> None:
    chapters = {panel["id"]: panel["title"] for panel in panels(dashboards()["runbooks"])}
    assert list(chapters.values()) == re.findall(r"^## (.+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    linked = set()
    for name in FOUR:
        for panel in panels(dashboards()[name]):
            for link in panel["links"]:
                number = re.fullmatch(r"/d/readmit-runbooks/runbooks\?viewPanel=panel-(\d+)", link["url"])
                assert number, link["url"]
                assert link["title"] == f"Runbook: {chapters[int(number[1])]}"
                assert link["tooltip"] == f"docs/runbooks.md#{chapters[int(number[1])].lower()}"
                linked.add(chapters[int(number[1])])
    rules = yaml.safe_load((ROOT / "infra/prometheus/rules/alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert linked == alerts, "an alert that no panel leads to, or a panel that leads to no alert"


# --- understood by Prometheus ----------------------------------------------------------------------------------------


def promtool(queries: list[tuple[str, str, str]], folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the expressions as recording rules."""
    if not (program := shutil.which("promtool")):
        unavailable("prometheus", "promtool is not on PATH")
    rules = [{"record": f"panel:{number}", "expr": expr} for number, (_, _, expr) in enumerate(queries)]
    path = folder / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    return subprocess.run([program, "check", "rules", str(path)], capture_output=True, text=True, check=False)


def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    queries = panel_queries() + annotation_queries()
    assert len(queries) > 100
    checked = promtool(queries, tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_an_expression_with_an_error_is_refused(tmp_path: Path) -> None:
    checked = promtool(
        [("readmit-loop", "planted", substituted("sum by (job (rate(up[$__rate_interval])))"))], tmp_path
    )
    assert checked.returncode != 0


_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_OPERATORS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}
_EXPORTED_BY_MODULES = """
import importlib, sys, prometheus_client
for module in sys.argv[1:]:
    importlib.import_module(module)
for family in prometheus_client.REGISTRY.collect():
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
    for suffix in suffixes:
        print(family.name + suffix)
"""


def metrics_of(expr: str) -> set[str]:
    """The names of the series that an expression reads."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", expr)
    bare = _GROUPING.sub("", re.sub(r"\{[^}]*\}", "", bare))
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - _OPERATORS


def test_every_series_that_a_panel_reads_is_exported_or_recorded() -> None:
    files = [*ROOT.glob("services/*/src/*/metrics.py"), *ROOT.glob("packages/chassis/src/*/metrics.py")]
    modules = [f"{path.parent.name}.metrics" for path in files]
    printed = subprocess.run(
        [sys.executable, "-c", _EXPORTED_BY_MODULES, *modules], capture_output=True, text=True, check=True
    ).stdout
    recorded = yaml.safe_load((ROOT / "infra/prometheus/rules/recording.yml").read_text())
    known = set(printed.split()) | {rule["record"] for group in recorded["groups"] for rule in group["rules"]}
    known |= {"up", "ALERTS", "scrape_duration_seconds"}  # Prometheus' own
    unknown = {
        (uid, title, name)
        for uid, title, expr in panel_queries() + annotation_queries()
        for name in metrics_of(expr)
        if name not in known and not name.startswith(("prometheus_", "alertmanager_", "process_"))
    }
    assert not unknown, "\n".join(" ".join(where) for where in sorted(unknown))


# --- understood by Grafana's types -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node_modules() -> Path:
    """TypeScript and Grafana's types at the versions of `package.json`, installed once."""
    if not (npm := shutil.which("npm")):
        unavailable("node", "npm is not on PATH")
    wanted = json.loads((SCHEMA / "package.json").read_text())["devDependencies"]
    there = SCHEMA / "node_modules"

    def version(package: str) -> str | None:
        about = there / package / "package.json"
        return json.loads(about.read_text())["version"] if about.is_file() else None

    if any(version(package) != wanted[package] for package in wanted):
        done = subprocess.run(
            [npm, "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=SCHEMA, capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        if done.returncode:
            unavailable("node", f"npm could not install Grafana's types: {done.stderr[-500:]}")
    return there


def compiled(models: dict[str, Any], node_modules: Path, folder: Path) -> str:
    """What `tsc` has against the dashboards as literals of Grafana's types; nothing if all is well."""
    (folder / "node_modules").symlink_to(node_modules)
    for name in ("tsconfig.json", "package.json", "provisioned.ts"):
        shutil.copy(SCHEMA / name, folder)
    for name, model in models.items():
        (folder / f"{name}.ts").write_text(
            "import type { ProvisionedDashboard } from './provisioned';\n"
            f"export const dashboard: ProvisionedDashboard = {json.dumps(model, indent=2)};\n"
        )
    done = subprocess.run(
        ["node", str(node_modules / "typescript/bin/tsc"), "--pretty", "false"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == (not done.stdout), done.stdout + done.stderr
    return done.stdout


def test_every_dashboard_has_grafanas_own_type(node_modules: Path, tmp_path: Path) -> None:
    assert compiled(dashboards(), node_modules, tmp_path) == ""


def first(model: dict[str, Any], kind: str) -> Any:
    return next(panel for panel in model["panels"] if panel["type"] == kind)


PLANTED: dict[str, Callable[[dict[str, Any]], None]] = {
    "a number as text": lambda model: first(model, "stat")["gridPos"].update(w="3"),
    "a value that an enum lacks": lambda model: first(model, "timeseries")["options"]["legend"].update(
        displayMode="lines"
    ),
    "an option that the panel lacks": lambda model: first(model, "stat")["options"].update(colourMode="value"),
    "an option of another kind of panel": lambda model: first(model, "stat")["options"].update(displayMode="basic"),
    "a field option that lines lack": lambda model: first(model, "timeseries")["fieldConfig"]["defaults"][
        "custom"
    ].update(drawStyles="bars"),
    "a threshold without colour": lambda model: first(model, "stat")["fieldConfig"]["defaults"]["thresholds"][
        "steps"
    ].append({"value": 1}),
    "a kind of panel that does not exist": lambda model: first(model, "table").update(type="tabel"),
    "a variable that is sorted by name": lambda model: model["templating"]["list"][0].update(sort="name"),
    "a target without its expression": lambda model: first(model, "stat")["targets"][0].pop("expr"),
    "a dashboard with an unknown field": lambda model: model.update(timezones="utc"),
}


def test_grafanas_type_refuses_each_planted_mistake(node_modules: Path, tmp_path: Path) -> None:
    sound = dashboards()["serving"]
    models = {}
    for number, mistake in enumerate(PLANTED.values()):
        models[f"planted{number}"] = copy.deepcopy(sound)
        mistake(models[f"planted{number}"])
    refused = {line.partition("(")[0] for line in compiled(models, node_modules, tmp_path).splitlines()}
    accepted = [words for number, words in enumerate(PLANTED) if f"planted{number}.ts" not in refused]
    assert not accepted
