"""Who a command asks, by whose key, and how a decision is named. Against a server that plays the promoter."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from readmit_chassis.access.api_keys import ApiKeys
from readmit_local import promoter as asking
from readmit_local.champion import parse_time, parse_version, rollout_view
from readmit_local.cli import app
from readmit_local.decisions import gate_table
from readmit_local.errors import LocalError
from readmit_local.promoter import Promoter, promoter, short_ids
from readmit_local.rest import Refused
from readmit_local.state import OPERATOR, State
from readmit_promoter.roles import SCOPES, may

FIRST, SECOND, THIRD = (
    "4c16971d-c2a4-4c03-896d-9ab5f6739a0f", "4c16aaaa-0000-4000-8000-000000000000",
    "d5a520ba-1111-4111-8111-111111111111",
)  # fmt: skip
IDS = (FIRST, SECOND, THIRD)


class Fake:
    """Answers by path; a list is given out one by one, its last element for good."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""

    def answer(self, path: str) -> tuple[int, Any]:
        found = self.answers.get(path, (404, {"detail": "nothing here"}))
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        return found if isinstance(found, tuple) else (200, found)


@pytest.fixture
def fake() -> Iterator[Fake]:
    it = Fake()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(b"")

        def do_POST(self) -> None:
            self.reply(self.rfile.read(int(self.headers.get("content-length") or 0)))

        def reply(self, body: bytes) -> None:
            it.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            status, document = it.answer(urlsplit(self.path).path)
            if callable(document):
                document = document(parse_qs(urlsplit(self.path).query))
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    it.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield it
    server.shutdown()
    thread.join()
    server.server_close()


def run(fake: Fake, *arguments: str, key: str | None = "secret-key") -> Any:
    env = {asking.URL_VARIABLE: fake.url, asking.API_KEY_VARIABLE: key, "COLUMNS": "200"}
    return CliRunner().invoke(app, list(arguments), env=env)


def test_the_operator_is_an_admin_on_the_promoters_list_and_keys_of_others_stay(state: State) -> None:
    ada = {"id": "ada", "sha256": "ab" * 32, "scopes": ["approver"]}
    state.promoter_keys.write_text(json.dumps({"keys": [ada]}))
    state.list_operator()
    state.list_operator()
    content = state.promoter_keys.read_text()
    assert [entry["id"] for entry in json.loads(content)["keys"]] == [OPERATOR, "ada"]
    key = state.secrets()["promoter/operator"]
    assert key not in content
    assert state.promoter_keys.stat().st_mode & 0o777 == 0o600
    keys = ApiKeys(SCOPES)
    keys.use(content.encode())
    client = keys.client_of(key.encode())
    assert client is not None
    assert (client.label, may(client, "admin")) == (OPERATOR, True)
    assert hashlib.sha256(key.encode()).hexdigest() in content


def test_a_list_of_keys_that_cannot_be_read_is_not_written_over(state: State) -> None:
    state.promoter_keys.write_text("[]")
    with pytest.raises(LocalError, match="no list of API keys"):
        state.list_operator()
    assert state.promoter_keys.read_text() == "[]"


def test_the_states_key_is_not_shown_to_a_promoter_elsewhere(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(asking.API_KEY_VARIABLE, raising=False)
    state.secrets()
    assert promoter(state.root, "http://elsewhere:30613/") == Promoter("http://elsewhere:30613", None)
    monkeypatch.setenv(asking.API_KEY_VARIABLE, "mine")
    assert promoter(state.root, "http://elsewhere:30613").key == "mine"


def test_without_a_running_stack_it_is_said_how_to_start_one(state: State) -> None:
    with pytest.raises(LocalError, match="readmit up"):
        promoter(state.root, None)


def test_a_key_is_in_no_representation() -> None:
    assert "secret" not in repr(Promoter("http://x", "secret"))


def test_a_decision_is_named_by_the_beginning_of_its_id(fake: Fake) -> None:
    fake.answers["/decisions"] = {"decisions": [{"decision_id": each} for each in IDS]}
    asked = Promoter(fake.url)
    assert asked.decision_id("d5a5") == THIRD
    assert asked.decision_id("4C169") == FIRST
    assert asked.decision_id(SECOND.upper()) == SECOND
    for text, said in (("4c16", "2 decisions"), ("4c1", "too short"), ("beef", "no decision")):
        with pytest.raises(LocalError, match=said):
            asked.decision_id(text)


def test_ids_are_shown_as_long_as_it_takes_to_tell_them_apart() -> None:
    alike = "4c16971d-c2a5-4c03-896d-9ab5f6739a0f"
    assert set(short_ids(IDS).values()) == {"4c16971d", "4c16aaaa", "d5a520ba"}
    assert short_ids([FIRST, alike])[FIRST] == "4c16971d-c2a4"


def test_every_judgement_is_asked_for_page_by_page(fake: Fake) -> None:
    def page(query: dict[str, list[str]]) -> dict[str, Any]:
        newest = int(query["before"][0]) - 1 if "before" in query else 120
        numbers = range(newest, max(newest - int(query["limit"][0]), 0), -1)
        return {"entries": [{"sequence": number, "entry_id": str(number)} for number in numbers]}

    fake.answers["/ledger"] = (200, page)
    assert [each["sequence"] for each in Promoter(fake.url).judgements()] == list(range(120, 0, -1))


def test_while_the_promoter_is_busy_it_is_asked_again(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_WAIT_IF_BUSY_S", 0.01)
    busy = (409, {"type": "urn:readmit:problem:busy", "detail": "8 decisions are being derived"})
    fake.answers["/x"] = [busy, busy, {"match": "same"}]
    assert Promoter(fake.url).derive("/x") == {"match": "same"}
    fake.answers["/x"] = (409, {"type": "urn:readmit:problem:bad_policy", "detail": "no"})
    with pytest.raises(Refused, match="no"):
        Promoter(fake.url).derive("/x")
    assert len(fake.seen) == 4


def test_a_command_shows_the_key_and_the_reason_and_prints_what_is_denied(fake: Fake) -> None:
    fake.answers["/freeze"] = [{}, (409, {"detail": "Promotions are frozen already."})]
    done = run(fake, "freeze", "--reason", "alerts doubled")
    assert done.exit_code == 0, done.output
    (_, _, headers, body) = fake.seen[0]
    assert headers["x-api-key"] == "secret-key"
    assert json.loads(body) == {"reason": "alerts doubled"}
    denied = run(fake, "freeze", "--reason", "again")
    assert isinstance(denied.exception, LocalError)
    assert str(denied.exception) == "Promotions are frozen already."
    assert "secret-key" not in done.output + denied.output


@pytest.mark.parametrize("command", ["rollback", "freeze", "unfreeze", "end-trial"])
def test_no_command_goes_without_a_reason(command: str, fake: Fake) -> None:
    assert run(fake, command).exit_code == 2
    assert fake.seen == []


def test_a_version_and_a_time_are_read_or_are_wrong_usage() -> None:
    assert parse_version("a:b:5") == {"name": "a:b", "version": "5"}
    assert parse_time("2026-11-28T12:00+02:00") == datetime(2026, 11, 28, 10, tzinfo=UTC)
    assert parse_time("2026-11-28").utcoffset() is not None
    for text in ("5", ":5", "name:"):
        with pytest.raises(typer.BadParameter, match="NAME:VERSION"):
            parse_version(text)
    for text in ("yesterday", ""):
        with pytest.raises(typer.BadParameter, match="no time"):
            parse_time(text)


def test_a_replay_counts_what_it_finds_and_fails_where_something_differs(fake: Fake) -> None:
    differs = {"gate": "champion", "entry": "figures.auroc_difference", "kept": 0.1, "derived": 0.2}
    fake.answers["/ledger"] = [
        {"entries": [{"sequence": 9 - at, "entry_id": each} for at, each in enumerate(IDS)]}, {"entries": []},
    ]  # fmt: skip
    fake.answers[f"/decisions/{FIRST}/replay"] = {"match": "same", "differences": [], "detail": ""}
    fake.answers[f"/decisions/{SECOND}/replay"] = {"match": "evidence_missing", "differences": [], "detail": "gone"}
    fake.answers[f"/decisions/{THIRD}/replay"] = {"match": "differs", "differences": [differs], "detail": ""}
    done = run(fake, "decisions", "replay")
    assert "1 same, 1 differs, 1 evidence_missing, 0 not_kept" in done.output
    assert f"{SECOND} evidence_missing: gone" in done.output
    assert "champion, figures.auroc_difference: kept 0.1, derived 0.2" in done.output
    assert FIRST not in done.output
    assert str(done.exception) == "1 of 3 decisions differ from what was kept"


def test_a_dry_run_shows_only_what_another_policy_changes(fake: Fake, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: other")
    fake.answers["/ledger"] = [
        {"entries": [{"sequence": 9 - at, "entry_id": each} for at, each in enumerate(IDS)]}, {"entries": []},
    ]  # fmt: skip
    as_before = {"outcome_before": "rejected", "outcome": "rejected", "reason": "x", "changed": []}
    gate = {"gate": "champion", "before": "fail", "now": "pass"}
    fake.answers[f"/decisions/{FIRST}/try"] = as_before
    fake.answers[f"/decisions/{SECOND}/try"] = as_before | {"outcome": "accepted", "changed": [gate]}
    fake.answers[f"/decisions/{THIRD}/try"] = (409, {"type": "urn:readmit:problem:not_kept", "detail": "old"})
    done = run(fake, "decisions", "try", str(policy))
    assert done.exit_code == 0, done.output
    assert "1 of 2 decisions would change, 1 not kept whole" in done.output
    assert "champion: fail → pass" in done.output
    assert FIRST[:8] not in done.output
    sent = [body for method, _, _, body in fake.seen if method == "POST"]
    assert sent == [b"version: other"] * 3


def test_a_changed_ledger_is_an_error_that_names_the_entries(fake: Fake) -> None:
    fake.answers["/ledger/check"] = {"entries": 7, "intact": False, "problems": ["entry 3 is not what it was"]}
    done = run(fake, "ledger", "check")
    assert "entry 3" in str(done.exception)
    fake.answers["/ledger/check"] = {"entries": 7, "intact": True, "problems": []}
    assert run(fake, "ledger", "check").output.startswith("7 entries")


def rollout(status: str, *, trial: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "promotion": {
            "epoch": 4, "action": "promotion", "model": {"name": "m", "version": "3", "family": "lightgbm"},
            "promoted_at": "2026-11-28T12:00:00Z", "status": status, "why": "1 of 3 pods serve it",
            "pods": [
                {"pod_id": "pod-1", "after_s": 0.4567, "refused": None},
                {"pod_id": "pod-2", "after_s": 0.9, "refused": "digest differs"},
            ],
            "missing": ["pod-3"], "first_s": 0.4567, "median_s": 0.4567, "last_s": None,
        },
        "trial": trial, "frozen": True, "candidates_waiting": 2, "candidates_unanswered": 3,
    }  # fmt: skip


def printed(view: Any) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def test_a_rollout_shows_each_pod_the_trial_and_what_waits() -> None:
    trial = {
        "rollout_id": FIRST, "stage": "canary", "share": 0.1, "challenger": {"name": "n", "version": "9"},
        "began_at": "2026-11-28T12:00:00Z", "figures": {"answers": 31, "mean_risk_difference": None},
        "refusing": {"pod-7": "too old"}, "why": "canary: 31 of 200 answers, 60 s",
    }  # fmt: skip
    shown = printed(rollout_view(rollout("converging", trial=trial)))
    for words in (
        "epoch 4, promotion of m v3: converging", "0.46 s", "refused: digest differs", "not said anything", "pod-3",
        "n v9, canary for 10% of the patients", "31 of 200", "answers: 31", "mean risk difference: none yet",
        "pod pod-7 refuses it: too old", "frozen", "2 candidates wait", "3 candidates wait for a yes or no",
    ):  # fmt: skip
        assert words in shown, words
    assert "0.90 s" not in shown, "a pod that refused does not serve it"
    assert "no model was promoted yet" in printed(rollout_view(rollout("converging") | {"promotion": None}))


def test_watching_ends_when_it_has_converged_and_fails_when_it_has_failed(fake: Fake) -> None:
    fake.answers["/rollout"] = [rollout("converging"), rollout("converging"), rollout("converged")]
    began = datetime.now(UTC)
    assert run(fake, "rollout", "--watch").exit_code == 0
    assert len(fake.seen) == 3
    assert datetime.now(UTC) - began < timedelta(seconds=10)
    fake.answers["/rollout"] = rollout("failed")
    assert "epoch 4 did not reach every pod" in str(run(fake, "rollout", "--watch").exception)


def test_gates_show_figures_against_thresholds_and_of_groups_only_those_harmed() -> None:
    gates = [
        {"gate": "calibration", "status": "insufficient_evidence", "detail": "d",
         "figures": {"slope": 1.125, "slope_low": 0.888, "slope_high": 1.359, "rows": 1467},
         "thresholds": {"max_slope": 1.33, "on_insufficient_evidence": "accept"}},
        {"gate": "subgroups", "status": "fail", "detail": "worse in: race/Asian",
         "figures": {"race/Asian/status": "fail", "race/Other/status": "insufficient_evidence", "race/Asian/x": 0.5},
         "thresholds": {"attributes": ["race"], "on_insufficient_evidence": "accept"}},
    ]  # fmt: skip
    shown = printed(gate_table(gates))
    for words in ("slope 1.125 (0.888 to 1.359)", "rows 1467", "max_slope 1.33", "then: accept", "race/Asian: fail"):
        assert words in shown, words
    assert "race/Other" not in shown
    assert "['race']" in shown, "square brackets are text, not markup"
    assert shown.count("then:") == 1
