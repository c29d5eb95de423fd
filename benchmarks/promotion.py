"""From a registered candidate to every pod: the real promoter, its database, four pods under load.

Candidates of 15,000 validation rows, each better than the one before beyond noise, come as the trainer registers them.
Measured: until the decision stands in the ledger, with the judgement's own work and without it; until the last of
four pods serves it; and the same for a rollback over REST, while clients ask the pods at 80 % of what they can do.
In the same run, what peers do: an alias that each pod polls every 5 s, and a restart of one pod after the other.

    python benchmarks/promotion.py [--bundle DIR DIR] [--python PYTHON] [--decisions 15] [--promotions 15]

The pods share the machine's last core, everything else has the first. Prints Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import yaml
from psycopg.conninfo import conninfo_to_dict
from serving_load import cores
from serving_parts import Bench, Parts, Pod, bench_options
from serving_reload import polls, rolling_restart

from readmit_bundle import load_model, write_bundle
from readmit_chassis.envelope import new_envelope
from readmit_chassis.s3 import S3Store
from readmit_chassis.testing import free_port, postgres_server
from readmit_contracts.events import MODEL_STREAM, ArtifactRef, ModelRegistered, ModelVersion
from readmit_contracts.topics import MODEL_REGISTERED
from readmit_inference.testing import ROOT

_PODS = 4
_ROWS = 15_000
#: Parts of a patient's risk, of which each candidate sees one more than the one before.
_PARTS, _SEEN_BY_THE_FIRST, _VARIANCE = 60, 4, 0.15
_KEY = "the key of this benchmark"
_PATIENCE_S = 120.0


class Validation:
    """The same patients for every candidate, and what each candidate's risk of them would be."""

    def __init__(self) -> None:
        drawn = np.random.default_rng(7)
        self._row = np.arange(_ROWS, dtype=np.uint64)
        self._patient = np.sort(drawn.integers(0, int(_ROWS * 0.7), _ROWS).astype(np.uint64))
        self._parts = drawn.normal(scale=np.sqrt(_VARIANCE), size=(_ROWS, _PARTS))
        risk = 1 / (1 + np.exp(2.2 - self._parts.sum(axis=1)))
        self._label = (drawn.random(_ROWS) < risk).astype(np.int8)

    def evidence(self, number: int) -> bytes:
        """Calibrated, up to the approximation of a logistic by a normal distribution (MacKay 1992)."""
        seen = min(_SEEN_BY_THE_FIRST + number, _PARTS)
        unseen = (_PARTS - seen) * _VARIANCE
        margin = (self._parts[:, :seen].sum(axis=1) - 2.2) / np.sqrt(1 + np.pi * unseen / 8)
        buffer = io.BytesIO()
        np.savez(
            buffer, row=self._row, patient=self._patient, label=self._label,
            risk=(1 / (1 + np.exp(-margin))).astype(np.float64), held_out=np.ones(_ROWS, dtype=np.int8),
        )  # fmt: skip
        return buffer.getvalue()


class Governor:
    """The promoter as a process, and what is asked of it."""

    def __init__(self, stack: ExitStack, folder: Path, parts: Parts, bench: Bench) -> None:
        self._port = free_port()
        self._address = f"http://127.0.0.1:{self._port}"
        self._bench = bench
        self._store = S3Store(parts.s3)
        self._validation = Validation()
        self._count = 0
        superuser = stack.enter_context(postgres_server())
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA governance")
        keys, policy = folder / "keys.json", folder / "policy.yaml"
        digest = hashlib.sha256(_KEY.encode()).hexdigest()
        keys.write_text(json.dumps({"keys": [{"id": "benchmark", "sha256": digest, "scopes": ["admin"]}]}))
        policy.write_text(yaml.safe_dump(_shipped_policy()))
        self._log = folder / "promoter.log"
        database = conninfo_to_dict(superuser)
        settings = {
            "PORT": self._port,
            "KAFKA__BOOTSTRAP_SERVERS": parts.kafka.bootstrap_servers,
            "KAFKA__IDEMPOTENT_PRODUCER": "false",
            "POSTGRES__HOST": database["host"],
            "POSTGRES__PORT": database["port"],
            "POSTGRES__DATABASE": database["dbname"],
            "POSTGRES__USER": database["user"],
            "POSTGRES__PASSWORD": "trusted",
            "S3__ENDPOINT_URL": parts.s3.endpoint_url,
            "S3__ACCESS_KEY": parts.s3.access_key,
            "S3__SECRET_KEY": parts.s3.secret_key.get_secret_value(),
            "MLFLOW_URL": "http://127.0.0.1:1",  # it follows the ledger, and nobody waits for it
            "POLICY_FILE": policy,
            "API_KEYS_FILE": keys,
        }
        environment = os.environ | {f"PROMOTER_{name}": str(value) for name, value in settings.items()}
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "readmit_promoter"], env=environment, stdout=log, stderr=log
            )
        os.sched_setaffinity(process.pid, {cores()[0]})
        stack.callback(process.wait)
        stack.callback(process.terminate)
        self.wait(lambda: self.get("/readyz"), "the promoter")

    def wait(self, condition: Any, what: str) -> Any:
        """The first true answer."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            try:
                if found := condition():
                    return found
            except OSError:
                pass
            time.sleep(0.05)
        raise SystemExit(f"{what} is not there:\n{self._log.read_text()[-3000:]}")

    def get(self, path: str) -> Any:
        """A document."""
        with urllib.request.urlopen(f"{self._address}{path}", timeout=10) as answer:  # noqa: S310  our own address
            return json.load(answer)

    def register(self) -> ModelRegistered:
        """One more candidate, better than all before; returns once Kafka has its event."""
        self._count += 1
        bundle = self._bench.new_bundle()
        manifest = load_model(bundle).manifest
        evidence = self._validation.evidence(self._count)
        sha256 = hashlib.sha256(evidence).hexdigest()
        reference = ArtifactRef(uri=f"{ROOT}/evidence/{sha256}/validation.npz", sha256=sha256, size_bytes=len(evidence))
        self._store.put(reference.uri, evidence)
        event = ModelRegistered(
            model=ModelVersion(name=manifest.model_name, version=str(self._count), family=manifest.family),
            run_id="benchmark",
            dataset_version=manifest.lineage.dataset_version,
            batch=manifest.lineage.batch,
            bundle=write_bundle(self._store.put, ROOT, bundle),
            evidence=reference,
            validation=manifest.validation.model_copy(update={"threshold": manifest.threshold.value}),
            feature_spec_sha256=manifest.feature_spec_sha256,
            code_version="benchmark",
            synthetic=manifest.synthetic,
            data_at=datetime.now(UTC),
        )
        envelope = new_envelope(event.EVENT_TYPE, source="trainer", subject=event.model.version)
        self._bench.promoter.say(MODEL_REGISTERED.name, MODEL_STREAM, event, envelope)
        return event

    def promoted(self, event: ModelRegistered) -> dict[str, Any]:
        """Its decision. Ends the benchmark where it is no promotion: every candidate is better than the last."""

        def decided() -> Any:
            found = self.get("/decisions?limit=5")["decisions"]
            return next((each for each in found if each["candidate"]["version"] == event.model.version), None)

        decision: dict[str, Any] = self.wait(decided, f"the decision on version {event.model.version}")
        if decision["outcome"] != "promoted":
            raise SystemExit(f"version {event.model.version}: {decision['outcome']}, {decision['detail']}")
        return decision

    def converged(self, epoch: int) -> dict[str, Any]:
        """How the promotion came to the pods, once it has come to all of them."""

        def settled() -> Any:
            found = self.get("/ledger?kind=convergence&limit=5")["entries"]
            return next((each["fact"] for each in found if each["fact"]["promotion_epoch"] == epoch), None)

        fact: dict[str, Any] = self.wait(settled, f"the convergence of epoch {epoch}")
        if not fact["converged"]:
            raise SystemExit(f"epoch {epoch} did not converge: {fact}")
        return fact

    def roll_back(self) -> dict[str, Any]:
        """The entry of a rollback to the champion before."""
        request = urllib.request.Request(  # noqa: S310  our own address
            f"{self._address}/rollback", json.dumps({"reason": "benchmark"}).encode(),
            {"content-type": "application/json", "x-api-key": _KEY},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.load(answer)

    def judging_s(self) -> float:
        """What all judgements together have taken so far."""
        with urllib.request.urlopen(f"{self._address}/metrics", timeout=10) as answer:  # noqa: S310
            lines = answer.read().decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("decision_seconds_sum"))


def _shipped_policy() -> dict[str, Any]:
    """As it comes, but that a convergence is written down at once, and of models of generated data."""
    written = subprocess.run(
        [sys.executable, "-c", "from readmit_promoter.policy import load_policy as p; print(p().model_dump_json())"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    policy: dict[str, Any] = json.loads(written.stdout)
    policy["rollout"]["convergence"]["settle_s"] = 0.0
    return policy


def measure_decisions(governor: Governor, decisions: int) -> Iterator[str]:
    """From the event to the ledger, nobody else asking for the processor."""
    with_work, without = [], []
    for _ in range(decisions):
        before = governor.judging_s()
        began = datetime.now(UTC)
        decision = governor.promoted(governor.register())
        whole = (datetime.fromisoformat(decision["decided_at"]) - began).total_seconds()
        with_work.append(whole)
        without.append(whole - (governor.judging_s() - before))
    yield f"| registered until decided, {_ROWS:,} rows | p50 s | p95 s | n |"
    yield "|---|---|---|---|"
    for name, found in (("all", with_work), ("without the judgement's own work", without)):
        yield f"| {name} | {np.percentile(found, 50):.2f} | {np.percentile(found, 95):.2f} | {len(found)} |"


def measure_pods(governor: Governor, bench: Bench, pods: list[Pod], promotions: int) -> Iterator[str]:
    """From a decision to the pods, under load."""
    rate = 0.8 * bench.saturation(pods)
    found: dict[str, list[dict[str, Any]]] = {"promotion": [], "rollback": []}

    def govern() -> None:
        for _ in range(promotions):
            decision = governor.promoted(governor.register())
            found["promotion"].append(governor.converged(decision["epoch"]))
            time.sleep(0.5)
            entry = governor.roll_back()
            found["rollback"].append(governor.converged(entry["fact"]["epoch"]))
            time.sleep(0.5)

    seen = bench.while_loaded(pods, rate, govern)
    yield f"| decided until served by {_PODS} pods | first pod, p50 s | last pod, p50 s | last pod, p95 s | n |"
    yield "|---|---|---|---|---|"
    for name, facts in found.items():
        first, last = ([fact[f"{which}_s"] for fact in facts] for which in ("first", "last"))
        yield (
            f"| {name} | {np.percentile(first, 50):.3f} | {np.percentile(last, 50):.3f} "
            f"| {np.percentile(last, 95):.3f} | {len(facts)} |"
        )
    yield (
        f"\nUnder {seen.rate:,.0f} requests/s, 80 % of what the pods can do on their core: {seen.failed} of "
        f"{len(seen.due):,} failed."
    )


def measure_peers(bench: Bench, pods: list[Pod], rounds: int) -> Iterator[str]:
    """The same for pods that look by themselves, and for pods that are restarted; nobody asks them meanwhile."""
    polled, restarts = list(polls(bench, rounds)), list(rolling_restart(bench, pods))
    yield (
        f"\nWithout load: an alias polled every 5 s {np.percentile(polled, 50):.1f} s (p95 "
        f"{np.percentile(polled, 95):.1f}, {len(polled)} times); a rolling restart {sum(restarts):.1f} s."
    )


def main() -> None:
    """Print both tables."""
    parser = bench_options(__doc__)
    parser.add_argument("--decisions", type=int, default=15, help="without load")
    parser.add_argument("--promotions", type=int, default=15, help="under load, and as many rollbacks")
    parser.add_argument("--polled", type=int, default=5, help="promotions that are polled for")
    options: argparse.Namespace = parser.parse_args()
    if options.decisions + options.promotions > _PARTS - _SEEN_BY_THE_FIRST:
        parser.error(f"at most {_PARTS - _SEEN_BY_THE_FIRST} candidates can each be better than the one before")
    with ExitStack() as stack:
        bench = Bench(stack, options)
        governor = Governor(stack, bench.folder, bench.parts, bench)
        pods = [bench.parts.pod(options.python, bench.folder / f"pod-{number}") for number in range(_PODS)]
        first = governor.register()
        for pod in pods:
            pod.start()
        governor.promoted(first)
        for pod in pods:
            pod.until("/readyz")
        for line in (
            *measure_decisions(governor, options.decisions), "",
            *measure_pods(governor, bench, pods, options.promotions), *measure_peers(bench, pods, options.polled),
        ):  # fmt: skip
            print(line, flush=True)


if __name__ == "__main__":
    main()
