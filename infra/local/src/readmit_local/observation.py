"""Prometheus and Alertmanager on this machine: the rules and routes of `infra`, the targets of this stack."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from readmit_local.assets import asset
from readmit_local.part import Part, answers, child_env
from readmit_local.ports import HOST, pod_names
from readmit_local.state import State

_ALERTMANAGER = ("prometheus-alertmanager", "alertmanager")  # Debian's name, and everybody else's


def missing_programs() -> list[str]:
    """Which of the two are not installed."""
    found = {"prometheus": shutil.which("prometheus"), "alertmanager": _alertmanager()}
    return [name for name, path in found.items() if path is None]


def observation_parts(state: State, ports: dict[str, int], pods: int, webhook_url: str | None) -> tuple[Part, Part]:
    """Alertmanager and Prometheus, configured for this stack. Both programs must be there."""
    folder = state.root / "observation"
    shutil.rmtree(folder / "rules", ignore_errors=True)
    folder.mkdir(exist_ok=True)
    shutil.copytree(asset("prometheus/rules"), folder / "rules")
    prometheus = prometheus_config(_read("prometheus/prometheus.yml"), targets(ports, pods))
    alertmanager = alertmanager_config(_read("alertmanager/alertmanager.yml"), webhook_url)
    _write(folder / "prometheus.yml", prometheus)
    _write(folder / "alertmanager.yml", alertmanager)
    return _alertmanager_part(folder, ports["alertmanager"]), _prometheus_part(folder, ports["prometheus"])


def targets(ports: Mapping[str, int], pods: int) -> dict[str, list[str]]:
    """Addresses by scrape job."""
    jobs: dict[str, Sequence[str]] = {
        name: (name,) for name in ("ingestor", "trainer", "promoter", "monitor", "ui", "prometheus", "alertmanager")
    }
    jobs["inference"] = pod_names(pods)
    return {job: [f"{HOST}:{ports[name]}" for name in names] for job, names in jobs.items()}


def prometheus_config(shared: Mapping[str, Any], targets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The configuration of Compose and clusters with other addresses. Raises KeyError for a job without targets."""
    config = copy.deepcopy(dict(shared))
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": list(targets["alertmanager"])}]}]}
    return config


def alertmanager_config(shared: Mapping[str, Any], webhook_url: str | None) -> dict[str, Any]:
    """The configuration of Compose and clusters; its webhooks go to this URL, or nowhere."""
    config = copy.deepcopy(dict(shared))
    for receiver in config["receivers"]:
        hooks = receiver.pop("webhook_configs", [])
        if hooks and webhook_url is not None:
            # In the file, not by `url_file`, which Debian's version does not know.
            receiver["webhook_configs"] = [
                {"url": webhook_url, **{key: value for key, value in hook.items() if key != "url_file"}}
                for hook in hooks
            ]
    return config


def _prometheus_part(folder: Path, port: int) -> Part:
    argv = (
        "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={HOST}:{port}", "--storage.tsdb.retention.time=15d",
    )  # fmt: skip
    return Part("prometheus", argv, child_env({}), answers(f"http://{HOST}:{port}/-/ready"))


def _alertmanager_part(folder: Path, port: int) -> Part:
    argv = (
        str(_alertmanager()), f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}", f"--web.listen-address={HOST}:{port}",
        "--cluster.listen-address=",  # alone: no gossip, no second port
    )  # fmt: skip
    return Part("alertmanager", argv, child_env({}), answers(f"http://{HOST}:{port}/-/ready"))


def _alertmanager() -> str | None:
    return next((path for name in _ALERTMANAGER if (path := shutil.which(name))), None)


def _read(relative: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(asset(relative).read_text(encoding="utf-8"))
    return config


def _write(path: Path, config: Mapping[str, Any]) -> None:
    path.touch(mode=0o600)  # a webhook's URL is a secret
    path.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
