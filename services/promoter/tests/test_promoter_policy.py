"""The policy file: what is shipped, and that whatever is wrong with one is named, with what is allowed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from readmit_promoter.errors import PolicyError
from readmit_promoter.policy import Policy, load_policy, parse_policy, schema_text

SHIPPED = resources.files("readmit_promoter") / "policies"
DEFAULT: str = (SHIPPED / "default.yaml").read_text()


def parsed(text: str) -> Policy:
    return parse_policy(text.encode(), "policy.yaml")


def refused(text: str) -> list[str]:
    """One line for each problem."""
    with pytest.raises(PolicyError) as told:
        parsed(text)
    return str(told.value).splitlines()


def test_without_a_file_the_shipped_policy_is_in_force() -> None:
    policy = load_policy()
    assert policy == parsed(DEFAULT)
    assert policy.gates.champion.comparison == "superiority"
    assert Policy.model_validate(json.loads(json.dumps(policy.document()))) == policy


def test_the_schema_beside_it_is_up_to_date() -> None:
    """`python -m readmit_promoter.policy > .../policies/policy.schema.json` writes it."""
    assert (SHIPPED / "policy.schema.json").read_text() == schema_text()


def test_a_digest_stands_for_the_content_and_not_for_how_it_is_written() -> None:
    document = yaml.safe_load(DEFAULT)
    turned_round = yaml.safe_dump(document, sort_keys=True, default_flow_style=True)
    assert parsed(turned_round).sha256 == load_policy().sha256
    document["gates"]["batches"]["min_batches"] = 2
    assert parsed(yaml.safe_dump(document)).sha256 != load_policy().sha256


def test_a_gate_may_be_left_out_but_not_the_four_that_make_a_champion() -> None:
    document = yaml.safe_load(DEFAULT)
    document["gates"] = {name: document["gates"][name] for name in ("evidence", "provenance", "discrimination")}
    assert refused(yaml.safe_dump(document)) == ["policy.yaml: gates.champion: Field required"]
    document["gates"]["champion"] = {"comparison": "superiority", "on_insufficient_evidence": "reject"}
    assert parsed(yaml.safe_dump(document)).gates.latency is None


def test_an_unknown_gate_is_named_and_the_known_ones_are_listed() -> None:
    [told] = refused(DEFAULT.replace("\nrollout:", "\n  fairness: {}\nrollout:"))
    assert told.startswith("policy.yaml: gates.fairness: unknown gate; known are evidence, provenance, discrimination,")
    assert "subgroups" in told


@pytest.mark.parametrize(
    ("entry", "instead", "told"),
    [
        ("min_rows: 500", "min_row: 500", "gates.evidence.min_row: unknown entry; known are min_rows,"),
        ("min_rows: 500", "min_rows: 0", "gates.evidence.min_rows: 0: Input should be greater than or equal to 1"),
        ("max_error: 0.03", "max_error: .nan", "gates.calibration.max_error: nan: Input should be a finite number"),
        ("max_error: 0.03", "max_error: much", "gates.calibration.max_error: 'much': Input should be a valid number"),
        ("replaces_real: never", "replaces_real: always", "provenance.synthetic_replaces_real: 'always': Input should"),
        ("[race, gender, age]", "[race, payer]", "subgroups.attributes.1: 'payer': Input should be 'race', 'gender'"),
        ("[race, gender, age]", "[]", "gates.subgroups.attributes: []: Tuple should have at least 1 item"),
        ("comparison: superiority", "comparison: non_inferiority", "gates.champion: non_inferiority takes a margin"),
        ("comparison: superiority", "comparison: superiority\n    margin: 0.1", "superiority takes none"),
        ("error_rate: 0.05", "error_rate: 0.0001", "bootstrap: 1000 resamples are too few for an error rate of 0.0001"),
        ('version: "2"', "version: 2026-11-28", "version: datetime.date(2026, 11, 28): Input should be a valid string"),
        ("max_bytes: 33554432", "max_bytes: 1\n    max_bytes: 2", "not YAML: 'max_bytes' is there twice"),
        ("gates:", "gates: [", "not YAML:"),
        ("trial: []", "trial: [{stage: blue}]", "rollout.trial.0: "),
        ("trial: []", "trial: [{stage: shadow, share: 0.1}]", "trial.0.shadow.share: unknown entry; known are stage,"),
        ("deadline_s: 60", "deadline: 60", "convergence.deadline: unknown entry; known are deadline_s, settle_s,"),
    ],
)
def test_each_problem_is_told_with_its_place_its_value_and_what_is_allowed(entry: str, instead: str, told: str) -> None:
    assert DEFAULT.count(entry) == 1
    lines = refused(DEFAULT.replace(entry, instead))
    assert any(told in line for line in lines), lines
    assert all(line.startswith("policy.yaml: ") for line in lines)


def test_all_problems_are_told_at_once() -> None:
    broken = DEFAULT.replace("min_rows: 500", "min_rows: -1").replace("min_batches: 1", "min_batches: none")
    assert len(refused(broken)) == 2


def test_a_file_that_is_not_there_or_no_policy_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"absent\.yaml: cannot be read .* is its path right"):
        load_policy(tmp_path / "absent.yaml")
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * 70_000)
    with pytest.raises(PolicyError, match="no policy"):
        load_policy(huge)
    own = tmp_path / "own.yaml"
    own.write_text(DEFAULT.replace('version: "2"', 'version: "ours 3"'))
    assert load_policy(own).version == "ours 3"


def test_a_service_does_not_start_with_a_policy_that_is_none(tmp_path: Path) -> None:
    """It says what is wrong, without a traceback."""
    own = tmp_path / "own.yaml"
    own.write_text(DEFAULT.replace("\nrollout:", "\n  fairness: {}\nrollout:"))
    needed = {
        "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "POSTGRES__HOST": "127.0.0.1", "POSTGRES__DATABASE": "readmit",
        "POSTGRES__USER": "readmit", "POSTGRES__PASSWORD": "trusted", "S3__ENDPOINT_URL": "http://127.0.0.1:1",
        "S3__ACCESS_KEY": "key", "S3__SECRET_KEY": "secret", "MLFLOW_URL": "http://127.0.0.1:1",
        "POLICY_FILE": str(own),
    }  # fmt: skip
    environment = os.environ | {f"PROMOTER_{name}": value for name, value in needed.items()}
    command = [sys.executable, "-m", "readmit_promoter"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert ran.stderr.startswith(f"The promoter does not start: {own}: gates.fairness: unknown gate")


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (("", ""), 0, "own.yaml: version 2, digest "),
        (("max_error: 0.03", "max_error: 7"), 2, "own.yaml: gates.calibration.max_error: 7: Input should be less than"),
        (("version:", "versoin:"), 2, "own.yaml: versoin: unknown entry; known are version, bootstrap, gates, rollout"),
    ],
)
def test_a_policy_is_checked_without_starting_anything(
    change: tuple[str, str], code: int, told: str, tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    assert change[0] in DEFAULT
    own.write_text(DEFAULT.replace(*change, 1))
    command = [sys.executable, "-m", "readmit_promoter", "policy", str(own)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == code
    assert told in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PATHS = [("version",), ("bootstrap",), ("gates",)] + [
    ("gates", gate, *entry)
    for gate, entries in yaml.safe_load(DEFAULT)["gates"].items()
    for entry in ((), *((name,) for name in entries))
]


@given(path=st.sampled_from(PATHS), value=JSON)
@settings(max_examples=300, deadline=None)
def test_whatever_stands_in_a_place_the_file_is_a_policy_or_refused(path: tuple[str, ...], value: Any) -> None:
    document = yaml.safe_load(DEFAULT)
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    try:
        policy = parsed(yaml.safe_dump(document))
    except PolicyError:
        return
    assert Policy.model_validate(policy.document()) == policy


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_bytes_whatever_crash_the_reader(data: bytes) -> None:
    with pytest.raises(PolicyError):
        parse_policy(data, "policy.yaml")
