"""What Compose and the images say agrees with the code: no misspelt variable, no missing file, nobody as root."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from readmit_chassis.settings import variables

ROOT = Path(__file__).parents[1]
SERVICES = ("ingestor", "trainer", "promoter", "inference", "ui")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
DOCKERFILES = sorted([*ROOT.glob("services/*/Dockerfile"), *ROOT.glob("infra/*/Dockerfile")])


@pytest.mark.parametrize("service", SERVICES)
def test_compose_gives_each_service_what_its_settings_require_and_nothing_they_do_not_know(service: str) -> None:
    settings = importlib.import_module(f"readmit_{service}.settings").Settings
    known = dict(variables(settings, f"{service.upper()}_"))
    given = set(COMPOSE[service]["environment"])
    assert given <= set(known)
    assert {name for name, required in known.items() if required} <= given


def test_no_password_stands_in_compose_and_every_one_is_in_the_example() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    secrets = re.findall(r"(?:PASSWORD|SECRET_KEY|ACCESS_KEY)[A-Z_]*: (.+)", text)
    assert secrets
    assert all(re.fullmatch(r"\$\{\w+:\?set it in \.env\}", value) for value in secrets)
    example = {line.partition("=")[0] for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line}
    assert set(re.findall(r"\$\{(\w+):\?", text)) == example


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_image_copies_what_exists_installs_from_a_hashed_lock_and_does_not_run_as_root(path: Path) -> None:
    text = path.read_text()
    for source in re.findall(r"^COPY (?!--from)(?:--\S+ )*(\S+)", text, re.MULTILINE):
        assert (ROOT / source).exists(), source
    lock = re.search(r"--require-hashes -r \S*?([\w-]+\.txt)", text)
    assert lock is not None
    assert (ROOT / "requirements" / lock[1]).exists()
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] != "root"


def test_every_image_of_compose_has_its_dockerfile() -> None:
    built = [service["build"]["dockerfile"] for service in COMPOSE.values() if "build" in service]
    assert set(built) == {str(path.relative_to(ROOT)) for path in DOCKERFILES}
