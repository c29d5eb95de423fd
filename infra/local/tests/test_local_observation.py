"""`readmit up --observe`: the shared configuration with this stack's addresses, and nothing of anybody's secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from readmit_local.assets import asset
from readmit_local.observation import (
    alertmanager_config,
    missing_programs,
    observation_parts,
    prometheus_config,
    targets,
)
from readmit_local.ports import DEFAULT_PORTS, HOST, OBSERVATION, choose_ports
from readmit_local.state import State

SHARED: dict[str, Any] = yaml.safe_load(asset("prometheus/prometheus.yml").read_text())
ROUTES: dict[str, Any] = yaml.safe_load(asset("alertmanager/alertmanager.yml").read_text())


def scraped(config: Mapping[str, Any]) -> dict[str, list[str]]:
    return {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}


def test_every_job_of_the_shared_configuration_gets_this_stacks_addresses_and_nothing_else_changes() -> None:
    ports = choose_ports("free", {}, pods=2, observe=True)
    config = prometheus_config(SHARED, targets(ports, pods=2))
    assert scraped(config)["inference"] == [f"{HOST}:{ports['inference']}", f"{HOST}:{ports['inference-2']}"]
    assert scraped(config)["trainer"] == [f"{HOST}:{ports['trainer']}"]
    assert set(scraped(config)) == {job["job_name"] for job in SHARED["scrape_configs"]}
    assert not any("dns_sd_configs" in job for job in config["scrape_configs"])
    assert config["global"] == SHARED["global"]
    assert config["rule_files"] == SHARED["rule_files"]


def test_a_job_that_this_stack_does_not_know_is_an_error_and_not_a_hole() -> None:
    stranger = {**SHARED, "scrape_configs": [{"job_name": "stranger"}]}
    with pytest.raises(KeyError, match="stranger"):
        prometheus_config(stranger, targets(choose_ports("free", {}, observe=True), pods=1))


def test_alerts_go_to_the_given_webhook_or_nowhere() -> None:
    told = alertmanager_config(ROUTES, "http://127.0.0.1:1/hook")
    hooks = [hook for receiver in told["receivers"] for hook in receiver.get("webhook_configs", [])]
    assert [hook["url"] for hook in hooks] == ["http://127.0.0.1:1/hook"] * 2
    assert "webhook_configs" not in json.dumps(alertmanager_config(ROUTES, None))
    assert "url_file" not in json.dumps(told)
    assert told["route"] == ROUTES["route"]


def test_ports_of_the_observation_are_asked_for_only_when_it_is_started() -> None:
    assert not set(choose_ports("free", {})) & set(OBSERVATION)
    assert set(choose_ports("free", {}, observe=True)) == set(DEFAULT_PORTS)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert missing_programs() == ["prometheus", "alertmanager"]


def test_a_webhook_is_for_its_owners_eyes_only(state: State) -> None:
    observation_parts(state, choose_ports("free", {}, observe=True), 1, "http://127.0.0.1:1/secret")
    written: Path = state.root / "observation" / "alertmanager.yml"
    assert "secret" in written.read_text()
    assert written.stat().st_mode & 0o077 == 0
