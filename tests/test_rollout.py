"""A candidate's way through shadow and canary to every pod, or out: the real promoter and real pods, over Kafka.

And what people say to it with the operator's command, each with a key of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from readmit_bundle import Bundle, Manifest, load_model, pack, write_bundle
from readmit_bundle.archive import MANIFEST_FILE, MODEL_FILE
from readmit_chassis.envelope import new_envelope
from readmit_chassis.kafka import create_topics, make_broker, publisher
from readmit_chassis.s3 import S3Store
from readmit_chassis.settings import KafkaSettings, S3Settings
from readmit_chassis.testing import free_port, postgres_server, s3_server
from readmit_contracts.encounter import example_encounter
from readmit_contracts.events import MODEL_STREAM, ArtifactRef, ModelRegistered, ModelVersion
from readmit_contracts.topics import MODEL_REGISTERED, TOPICS
from readmit_inference.testing import ROOT as BUNDLES
from readmit_inference.testing import tiny_bundle
from readmit_local.promoter import API_KEY_VARIABLE, URL_VARIABLE

from .processes import kafka_cluster, readmit, running, wait_until

pytestmark = pytest.mark.stack

#: Who has which role; the key of each is derived from the name.
ROLES = {"vera": "viewer", "ada": "approver", "operator": "admin"}
SHARE = 0.5
#: What is tried here is the way, not the gates.
POLICY = {
    "version": "staged",
    "bootstrap": {"resamples": 200, "error_rate": 0.05},
    "gates": {
        "evidence": {"min_rows": 500, "min_patients_per_class": 30, "on_insufficient_evidence": "reject"},
        "provenance": {"synthetic_replaces_real": "never"},
        "discrimination": {"above_auroc": 0.5},
        # Held: a candidate that was evaluated on other patients waits for a person.
        "champion": {"comparison": "superiority", "on_insufficient_evidence": "hold"},
    },
    "rollout": {
        "trial": [
            {"stage": "shadow", "at_least_s": 0, "at_least_answers": 40, "at_most_s": 600},
            {"stage": "canary", "share": SHARE, "at_least_s": 0, "at_least_answers": 150, "at_most_s": 600},
        ],
        "limits": {"judged_from": 20, "mean_risk_difference": 0.005, "changed_decisions": 1.0},
    },
}


def key_of(who: str) -> str:
    return f"the key of {who} in this test"


def variant(bundle: Bundle, number: int) -> Bundle:
    """The same model under another digest."""
    manifest = Manifest.model_validate_json(bundle.files[MANIFEST_FILE])
    lineage = manifest.lineage.model_copy(update={"code_version": f"variant {number}"})
    return pack(manifest.model_copy(update={"lineage": lineage}), bundle.files[MODEL_FILE])


def evidence(noise: float, first_row: int = 0) -> bytes:
    """Of the same 2,000 patients each time, or of others; the less noise, the better."""
    drawn = np.random.default_rng(7)
    label = (drawn.random(2000) < 0.3).astype(np.int8)
    seen = label + drawn.normal(scale=0.3, size=2000) + noise * np.random.default_rng(1).normal(size=2000)
    buffer = io.BytesIO()
    rows = first_row + np.arange(2000, dtype=np.uint64)
    np.savez(buffer, row=rows, patient=rows, label=label, risk=0.5 + np.arctan(seen) / np.pi)
    return buffer.getvalue()


def candidate(store: S3Store, bundle: Bundle, version: int, noise: float, first_row: int = 0) -> ModelRegistered:
    """Its announcement; bundle and evidence are in the store by then."""
    manifest = load_model(bundle).manifest
    data = evidence(noise, first_row)
    sha256 = hashlib.sha256(data).hexdigest()
    reference = ArtifactRef(uri=f"{BUNDLES}/evidence/{sha256}.npz", sha256=sha256, size_bytes=len(data))
    store.put(reference.uri, data)
    return ModelRegistered(
        model=ModelVersion(name=manifest.model_name, version=str(version), family=manifest.family),
        run_id="test",
        dataset_version=1,
        batch=1,
        bundle=write_bundle(store.put, BUNDLES, bundle),
        evidence=reference,
        validation=manifest.validation,
        feature_spec_sha256=manifest.feature_spec_sha256,
        code_version="test",
        synthetic=False,
    )


@dataclass
class Town:
    """A promoter and two pods, and whoever registers candidates and asks for predictions."""

    promoter: str
    pods: tuple[str, ...]
    store: S3Store
    kafka: KafkaSettings
    asked: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)

    def register(self, bundle: Bundle, version: int, noise: float, first_row: int = 0) -> None:
        event = candidate(self.store, bundle, version, noise, first_row)
        asyncio.run(self._publish(event.model_dump_json().encode()))

    def register_without_figures(self, bundle: Bundle, version: int) -> None:
        """As `json.dumps` of Python writes a figure that is not a number."""
        document = candidate(self.store, bundle, version, 1.0).model_dump(mode="json")
        document["validation"]["auroc"] = math.nan
        asyncio.run(self._publish(json.dumps(document).encode()))

    async def _publish(self, value: bytes) -> None:
        broker = make_broker(self.kafka, "test")
        await broker.start()
        try:
            envelope = new_envelope(ModelRegistered.EVENT_TYPE, source="test", subject="any")
            await publisher(broker)(MODEL_REGISTERED.name, MODEL_STREAM.encode(), value, envelope.headers())
        finally:
            await broker.stop()

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.promoter}{path}", timeout=10).raise_for_status().json()

    def post(self, path: str, body: Any) -> Any:
        headers = {"x-api-key": key_of("operator")}
        return httpx.post(f"{self.promoter}{path}", json=body, headers=headers, timeout=30).raise_for_status().json()

    def readmit(self, who: str, *arguments: str, code: int = 0) -> str:
        """What the operator's command says to somebody."""
        env = {URL_VARIABLE: self.promoter, API_KEY_VARIABLE: key_of(who), "COLUMNS": "200"}
        return readmit(*arguments, code=code, env=env)

    def decision(self, version: int) -> dict[str, Any] | None:
        found = self.get("/decisions")["decisions"]
        return next((each for each in found if each["candidate"]["version"] == str(version)), None)

    def ask(self) -> None:
        """Each pod about the same twenty patients."""
        for patient in range(20):
            body = json.dumps(example_encounter() | {"patient_nbr": 1000 + patient}).encode()
            for pod in self.pods:
                answer = httpx.post(f"{pod}/predict", content=body, headers={"content-type": "application/json"})
                assert answer.status_code == 200, answer.text
                self.asked.append((patient, pod, answer.json()))

    def challengers(self) -> dict[tuple[int, str], dict[str, Any]]:
        """By patient and pod: the model on trial that answered."""
        return {(patient, pod): answer["model"] for patient, pod, answer in self.asked if _is_challenger(answer)}

    def outcome(self, version: int) -> str | None:
        found = self.decision(version)
        return found and found["outcome"]

    def stage(self) -> str | None:
        trial = self.get("/rollout")["trial"]
        return trial and trial["stage"]

    def asking_until(self, condition: Callable[[], Any], what: str) -> None:
        def asked() -> Any:
            self.ask()
            return condition()

        wait_until(asked, what, 120)


def _is_challenger(answer: dict[str, Any]) -> bool:
    return bool(answer["model"]["role"] == "challenger")


@pytest.fixture(scope="module", params=["embedded", "apache"])
def town(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """With a first champion in every pod."""
    folder: Path = tmp_path_factory.mktemp("rollout")
    with ExitStack() as stack:
        kafka = stack.enter_context(kafka_cluster(request.param, folder / "state"))
        store = stack.enter_context(s3_server(BUNDLES.removeprefix("s3://").partition("/")[0]))
        superuser = stack.enter_context(postgres_server())
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA governance")
        asyncio.run(create_topics(kafka.bootstrap_servers, [(t.name, t.partitions, t.config()) for t in TOPICS]))
        shared = _shared(kafka, store)
        pods = []
        for number in (1, 2):
            port = free_port()
            own = {
                "PORT": port, "POD_ID": f"pod-{number}", "CACHE_DIR": folder / f"pod-{number}", "HEARTBEAT_S": 1,
                "PSEUDONYM_KEY": "a key of this test's own",
            }  # fmt: skip
            _start(stack, "inference", shared | own, folder / f"pod-{number}.log")
            pods.append(f"http://127.0.0.1:{port}")
        promoter = _start_promoter(stack, folder, shared, superuser)
        wait_until(lambda: _is_up(f"{promoter}/readyz"), "promoter")
        wait_until(lambda: all(_is_up(f"{pod}/livez") for pod in pods), "pods")
        found = Town(promoter, tuple(pods), S3Store(store), kafka)
        found.register(variant(tiny_bundle(1), 1), 1, noise=4.0)
        wait_until(lambda: all(_is_up(f"{pod}/readyz") for pod in pods), "first champion in every pod")
        yield found


def _shared(kafka: KafkaSettings, store: S3Settings) -> dict[str, Any]:
    return {
        "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "KAFKA__IDEMPOTENT_PRODUCER": str(kafka.idempotent_producer).lower(),
        "S3__ENDPOINT_URL": store.endpoint_url,
        "S3__ACCESS_KEY": store.access_key,
        "S3__SECRET_KEY": store.secret_key.get_secret_value(),
    }


def _start_promoter(stack: ExitStack, folder: Path, shared: dict[str, Any], superuser: str) -> str:
    database, port = conninfo_to_dict(superuser), free_port()
    (folder / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    keys = {
        "keys": [
            {"id": who, "sha256": hashlib.sha256(key_of(who).encode()).hexdigest(), "scopes": [role]}
            for who, role in ROLES.items()
        ]
    }
    (folder / "keys.json").write_text(json.dumps(keys))
    own = {
        "PORT": port, "POSTGRES__HOST": database["host"], "POSTGRES__PORT": database["port"],
        "POSTGRES__DATABASE": database["dbname"], "POSTGRES__USER": database["user"], "POSTGRES__PASSWORD": "trusted",
        "MLFLOW_URL": "http://127.0.0.1:1", "POLICY_FILE": folder / "policy.yaml",
        "API_KEYS_FILE": folder / "keys.json",
    }  # fmt: skip
    _start(stack, "promoter", shared | own, folder / "promoter.log")
    return f"http://127.0.0.1:{port}"


def _start(stack: ExitStack, service: str, settings: dict[str, Any], log: Path) -> None:
    environment = {f"{service.upper()}_{name}": str(value) for name, value in settings.items()}
    stack.enter_context(running([sys.executable, "-m", f"readmit_{service}"], log, env=os.environ | environment))


def _is_up(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.timeout(400)
def test_through_shadow_and_canary_to_every_pod_then_one_that_is_turned_out_and_a_rollback(town: Town) -> None:
    """One story, since each part begins where the one before ends; no request fails in any of it."""
    town.register(variant(tiny_bundle(1), 2), 2, noise=2.0)
    wait_until(lambda: town.stage() == "shadow", "shadow")
    town.asking_until(lambda: town.stage() != "shadow", "end of the shadow")
    shadowed = [answer["model"] for _, _, answer in town.asked]
    assert {(model["version"], model["role"]) for model in shadowed[:40]} == {("1", "champion")}

    town.asking_until(lambda: town.stage() is None, "end of the canary")
    town.asking_until(
        lambda: {answer["model"]["version"] for _, _, answer in town.asked[-40:]} == {"2"}, "promotion in every pod"
    )
    assert town.outcome(2) == "promoted"
    assert {model["version"] for model in town.challengers().values()} == {"2"}
    drawn = {patient for patient, _ in town.challengers()}
    assert 3 <= len(drawn) <= 17  # of twenty, by a half; 0.3 % of draws are beyond that
    assert set(town.challengers()) == {(patient, pod) for patient in drawn for pod in town.pods}  # the same everywhere

    other = tiny_bundle(2)
    town.register(other, 3, noise=0.2)
    wait_until(lambda: town.stage() == "shadow", "shadow of another")
    town.asking_until(lambda: town.outcome(3) == "trial_failed", "end of a trial beyond its limits")
    ended = town.get("/ledger?kind=rollout&limit=1")["entries"][0]
    assert "mean difference of risk" in ended["reason"]
    assert {answer["model"]["version"] for _, _, answer in town.asked[-40:]} == {"2"}

    entry = town.post("/rollback", {"reason": "the test's end"})
    assert (entry["by"], entry["fact"]["model"]["version"]) == ("operator", "1")
    town.asking_until(
        lambda: {answer["model"]["version"] for _, _, answer in town.asked[-40:]} == {"1"}, "rollback in every pod"
    )
    wait_until(lambda: town.get("/rollout")["promotion"]["status"] == "converged", "convergence of the rollback")
    promotion = town.get("/rollout")["promotion"]
    assert (promotion["epoch"], promotion["missing"], len(promotion["pods"])) == (3, [], 2)
    assert town.get("/ledger/check")["intact"] is True
    for decision in town.get("/decisions")["decisions"]:
        assert town.post(f"/decisions/{decision['decision_id']}/replay", None)["match"] == "same"


@pytest.mark.timeout(300)
def test_people_refuse_approve_and_end_a_trial_each_as_far_as_their_role_goes(town: Town) -> None:
    """With the command, against the promoter; what is denied is one line for them, and an entry of the ledger."""
    before = town.get("/champion")["champion"]
    for version in (11, 12):
        town.register(tiny_bundle(version), version, noise=1.0, first_row=10_000)
        wait_until(lambda version=version: town.decision(version), f"decision on version {version}")
    first, second = (str((town.decision(version) or {})["decision_id"]) for version in (11, 12))
    assert [town.outcome(version) for version in (11, 12)] == ["waiting_for_approval"] * 2
    because = ("--reason", "looked at it")

    takes_more = "takes the role approver; the key of vera has viewer"
    assert takes_more in town.readmit("vera", "refuse", first, *because, code=1)
    assert takes_more in town.readmit("vera", "approve", first, *because, code=1)
    assert "not valid" in town.readmit("nobody", "approve", first, *because, code=1)
    assert town.outcome(11) == "waiting_for_approval"
    assert "will not become champion" in town.readmit("ada", "refuse", first[:13], *because)
    assert "does not wait for an approval: it is refused" in town.readmit("ada", "approve", first, *because, code=1)
    assert town.outcome(11) == "refused"

    assert "approved: on trial" in town.readmit("ada", "approve", second, *because)
    assert (town.outcome(12), town.stage()) == ("on_trial", "shadow")
    assert "v12, shadow" in town.readmit("vera", "rollout")
    assert "takes the role admin" in town.readmit("ada", "end-trial", *because, code=1)
    assert town.stage() == "shadow"
    assert "v12 has ended; the champion goes on alone" in town.readmit("operator", "end-trial", *because)
    assert (town.outcome(12), town.stage()) == ("trial_failed", None)
    assert "No candidate is on trial" in town.readmit("operator", "end-trial", *because, code=1)
    assert town.get("/champion")["champion"] == before

    denials = town.get("/ledger?kind=denial&limit=5")["entries"][::-1]
    assert [(each["by"], each["fact"]["command"], each["fact"]["problem"]) for each in denials] == [
        ("vera", "refuse", "forbidden"), ("vera", "approve", "forbidden"), ("ada", "approve", "not_waiting"),
        ("ada", "end_trial", "forbidden"), ("operator", "end_trial", "no_trial"),
    ]  # fmt: skip
    assert {each["fact"]["asked"]["reason"] for each in denials} == {"looked at it"}
    assert "each as it was written" in town.readmit("vera", "ledger", "check")


def test_a_candidate_whose_figures_are_not_numbers_is_shown_and_derived_again_as_refused(town: Town) -> None:
    before = town.get("/champion")
    town.register_without_figures(tiny_bundle(21), 21)
    wait_until(lambda: town.decision(21), "decision")
    decision_id = str((town.decision(21) or {})["decision_id"])
    assert "bad_announcement" in town.readmit("vera", "decisions", "list")
    shown = town.readmit("vera", "decisions", "show", decision_id)
    assert "validation.auroc is NaN, allowed: a number from 0 to 1" in shown
    assert "1 same, 0 differs" in town.readmit("vera", "decisions", "replay", decision_id)
    assert town.get("/champion") == before
