"""Fixtures of the promoter's tests: evidence with known properties, a database of its own for each test, a registry."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import httpx
import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from readmit_bundle import Bundle, GoldenRow, Identity, Lineage, Manifest, Threshold, load_model, pack, write_bundle
from readmit_chassis.migrations import apply_migrations
from readmit_chassis.s3 import MemoryStore
from readmit_chassis.testing import free_port, postgres_server
from readmit_contracts.events import ArtifactRef, ModelRegistered, ModelVersion, ValidationScores
from readmit_features.spec import FeatureSpec, NumericFeature
from readmit_promoter import store
from readmit_promoter.domain import Case, Champion
from readmit_promoter.errors import EvidenceError
from readmit_promoter.evidence import Evidence
from readmit_promoter.inspection import Inspection
from readmit_promoter.policy import Policy, load_policy

Arrays = dict[str, NDArray[Any]]

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
SPEC = FeatureSpec(
    numeric=(NumericFeature(column="time_in_hospital", reading="number", fill=4.0),), tallies=(), categorical=()
)
SCORES = ValidationScores(
    rows=1, positives=1, auroc=0.5, auroc_low=0.5, auroc_high=0.5, average_precision=0.5, brier=0.5,
    calibration_error=0.5, threshold=0.3,
)  # fmt: skip


def tiny_bundle(
    number: int, family: str = "lightgbm", *, synthetic: bool = False, golden_shift: float = 0.0,
    dataset_version: int = 1,
) -> Bundle:  # fmt: skip
    """A linear model of one feature, another one for each number; `golden_shift` spoils its golden row."""
    model = json.dumps({"intercept": -2.0, "coefficients": [number / 1000]}).encode()
    unproven = Manifest(
        family=family,
        model_name=f"diabetes_readmission_{family}",
        scorer="linear",
        model_sha256=hashlib.sha256(model).hexdigest(),
        feature_spec=SPEC,
        feature_spec_sha256=SPEC.sha256(),
        calibration=Identity(),
        threshold=Threshold(value=0.3, statement="for tests"),
        validation=SCORES,
        lineage=Lineage(
            dataset_version=dataset_version, batch=1, batch_sha256=("0" * 64,), content_sha256="0" * 64,
            schema_sha256="0" * 64, code_version="test", libraries={},
        ),
        synthetic=synthetic,
        golden=(),
    )  # fmt: skip
    values: dict[str, str | int | None] = {"time_in_hospital": 3}
    risk = load_model(pack(unproven, model)).score_values(values)
    golden = GoldenRow(values=values, risk=risk + golden_shift)
    return pack(unproven.model_copy(update={"golden": (golden,)}), model)


@pytest.fixture(scope="session")
def quick_policy() -> Policy:
    """The default one, with fewer rows and resamples: quick enough for tests of the plumbing."""
    document = load_policy().document() | {"version": "quick"}
    document["bootstrap"]["resamples"] = 200
    document["gates"]["evidence"] |= {"min_rows": 100, "min_patients_per_class": 10}
    return Policy.model_validate(document)


@pytest.fixture(scope="session")
def cohort() -> Callable[..., Arrays]:
    """Arrays of evidence: the same rows, patients, labels and latent risk each time, seen through some noise.

    The risks are calibrated: the chance of the event, given what is seen.
    """

    def make(noise: float, rows: int = 600, first_row: int = 0, seed: int = 0) -> Arrays:
        everybody = 20_000  # drawn whole each time, so that a row is the same one in every slice
        truth = np.random.default_rng(7)
        patient = truth.integers(0, rows // 2 + 1, everybody).astype(np.uint64)
        label = (truth.random(everybody) < 0.3).astype(np.int8)
        signal = label + 0.3 * truth.normal(size=everybody)
        seen = signal + noise * np.random.default_rng(seed).normal(size=everybody)
        arrays = {
            "row": np.arange(everybody, dtype=np.uint64),
            "patient": patient,
            "label": label,
            "risk": 1 / (1 + 7 / 3 * np.exp((0.5 - seen) / (0.09 + noise**2))),
        }
        return {name: array[first_row : first_row + rows].copy() for name, array in arrays.items()}

    return make


@pytest.fixture(scope="session")
def packed() -> Callable[[Arrays], bytes]:
    """Arrays as the bytes of an .npz file."""

    def pack(arrays: Arrays) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    return pack


@pytest.fixture(scope="session")
def reference() -> Callable[[bytes], ArtifactRef]:
    """The reference that an event would carry for these bytes."""

    def refer(data: bytes) -> ArtifactRef:
        digest = hashlib.sha256(data).hexdigest()
        return ArtifactRef(uri=f"s3://bucket/evidence/{digest}/validation.npz", sha256=digest, size_bytes=len(data))

    return refer


@pytest.fixture
def objects() -> MemoryStore:
    """An object store."""
    return MemoryStore()


@pytest.fixture
def candidate(
    objects: MemoryStore, packed: Callable[[Arrays], bytes], reference: Callable[[bytes], ArtifactRef]
) -> Callable[..., ModelRegistered]:
    """`model.registered` for the next version, with its evidence in the object store."""
    versions = count(1)

    def register(
        arrays: Arrays, *, family: str = "lightgbm", synthetic: bool = False, dataset_version: int = 1
    ) -> ModelRegistered:
        version = next(versions)
        data = packed(arrays)
        ref = reference(data)
        objects.put(ref.uri, data)
        bundle = tiny_bundle(version, family, synthetic=synthetic, dataset_version=dataset_version)
        return ModelRegistered(
            model=ModelVersion(name=f"diabetes_readmission_{family}", version=str(version), family=family),
            run_id="run",
            dataset_version=dataset_version,
            batch=1,
            bundle=write_bundle(objects.put, "s3://bucket/bundles", bundle),
            evidence=ref,
            validation=SCORES,
            feature_spec_sha256=SPEC.sha256(),
            code_version="test",
            synthetic=synthetic,
        )  # fmt: skip

    return register


@pytest.fixture(scope="session")
def evidence(cohort: Callable[..., Arrays]) -> Callable[..., Evidence]:
    """Evidence as it is once read, under a digest of one repeated letter."""

    def make(noise: float, digest: str = "a", **options: int) -> Evidence:
        arrays = cohort(noise, **options)
        return Evidence(digest * 64, arrays["row"], arrays["patient"], arrays["label"] == 1, arrays["risk"])

    return make


@pytest.fixture(scope="session")
def case() -> Callable[..., Case]:
    """A case with a good bundle; `champion` is its evidence."""

    def make(
        candidate: Evidence | EvidenceError,
        champion: Evidence | None = None,
        *,
        synthetic: bool = False,
        champion_synthetic: bool | None = None,
        threshold: float | None = 0.3,
    ) -> Case:
        digest = "e" * 64 if isinstance(candidate, EvidenceError) else candidate.sha256
        event = ModelRegistered(
            model=ModelVersion(name="diabetes_readmission_lightgbm", version="2", family="lightgbm"),
            run_id="run",
            dataset_version=1,
            batch=1,
            bundle=ArtifactRef(uri="s3://bucket/bundles/2", sha256="2" * 64, size_bytes=1000),
            evidence=ArtifactRef(uri=f"s3://bucket/{digest}", sha256=digest, size_bytes=1),
            validation=SCORES.model_copy(update={"threshold": threshold}),
            feature_spec_sha256=SPEC.sha256(),
            code_version="test",
            synthetic=synthetic,
            data_at=NOW - timedelta(days=1),
        )
        opponent = None
        if champion is not None:
            reference = ArtifactRef(uri=f"s3://bucket/{champion.sha256}", sha256=champion.sha256, size_bytes=1)
            its_kind = synthetic if champion_synthetic is None else champion_synthetic
            opponent = Champion("1" * 64, its_kind, reference, champion)
        inspection = Inspection(size_bytes=1000, golden_rows=1, golden_error=0.0, row_us=50.0)
        return Case(event, candidate, opponent, inspection, NOW)

    return make


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Bundle]:
    """Makes bundles."""
    return tiny_bundle


@pytest.fixture(scope="session")
def registered(case: Callable[..., Case], evidence: Callable[..., Evidence]) -> tuple[MemoryStore, ModelRegistered]:
    """A store with one whole bundle, and the event that points at it."""
    objects = MemoryStore()
    event = case(evidence(1.0)).event
    reference = write_bundle(objects.put, "s3://bucket/bundles", tiny_bundle(1))
    return objects, event.model_copy(update={"bundle": reference})


@pytest.fixture(scope="session")
def template_database() -> Iterator[str]:
    """A PostgreSQL whose database `template` is migrated by the promoter's own, unprivileged role."""
    with postgres_server() as superuser:
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute("CREATE ROLE readmit_promoter LOGIN")
            connection.execute("CREATE DATABASE template")
        template = superuser.replace("dbname=postgres", "dbname=template")
        with psycopg.connect(template, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA governance AUTHORIZATION readmit_promoter")
        apply_migrations(template.replace("user=postgres", "user=readmit_promoter"), "governance", "readmit_promoter")
        yield superuser


@pytest.fixture
def conninfo(template_database: str) -> str:
    """A migrated database of its own, as the promoter's role: the ledger cannot be emptied between tests."""
    name = f"ledger_{uuid4().hex}"
    with psycopg.connect(template_database, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template".encode())
    return template_database.replace("dbname=postgres", f"dbname={name}").replace(
        "user=postgres", "user=readmit_promoter"
    )


@pytest.fixture
async def pool(conninfo: str) -> AsyncIterator[store.Pool]:
    """An open pool on the test's database."""
    async with store.make_pool(conninfo) as opened:
        yield opened


class FakeMlflow:
    """The registry's REST calls that the promoter makes, with MLflow's manners. `available = False` plays an outage."""

    def __init__(self) -> None:
        self.available = True
        self.writes = 0
        self.aliases: dict[str, dict[str, str]] = {}
        self.versions: dict[str, list[dict[str, Any]]] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not self.available:
            raise httpx.ConnectError("refused", request=request)
        call = (request.method, request.url.path.removeprefix("/api/2.0/mlflow/"))
        if request.method == "GET":
            query = {key: values[0] for key, values in parse_qs(request.url.query.decode()).items()}
            return self._get(query) if call[1] == "registered-models/get" else self._search(query)
        body = json.loads(request.content)
        if call == ("POST", "registered-models/create"):
            self.aliases[body["name"]], self.versions[body["name"]] = {}, []
            return httpx.Response(200, json={"registered_model": {"name": body["name"]}})
        if body["name"] not in self.versions:
            return httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"})
        if call == ("POST", "model-versions/create"):
            version = str(len(self.versions[body["name"]]) + 1)
            self.versions[body["name"]].append({"version": version, "current_stage": "None"})
            return httpx.Response(200, json={"model_version": {"version": version}})
        return self._write(call, body)

    def _write(self, call: tuple[str, str], body: dict[str, Any]) -> httpx.Response:
        self.writes += 1
        if call == ("DELETE", "registered-models/alias"):
            self.aliases[body["name"]].pop(body["alias"], None)
            return httpx.Response(200, json={})
        found = [known for known in self.versions[body["name"]] if known["version"] == body["version"]]
        if not found:
            return httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"})
        if call == ("POST", "registered-models/alias"):
            self.aliases[body["name"]][body["alias"]] = body["version"]
        elif call == ("POST", "model-versions/set-tag"):
            found[0]["tags"] = [{"key": body["key"], "value": body["value"]}]
        elif call == ("POST", "model-versions/transition-stage"):
            found[0]["current_stage"] = body["stage"]
        else:
            return httpx.Response(404, text="no such endpoint")
        return httpx.Response(200, json={})

    def _get(self, query: dict[str, str]) -> httpx.Response:
        if query["name"] not in self.versions:
            return httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"})
        aliases = [{"alias": alias, "version": version} for alias, version in self.aliases[query["name"]].items()]
        return httpx.Response(200, json={"registered_model": {"name": query["name"], "aliases": aliases}})

    def _search(self, query: dict[str, str]) -> httpx.Response:
        """One version a page, so that paging is used."""
        known = self.versions[query["filter"].removeprefix("name='").removesuffix("'")]
        page = int(query.get("page_token", 0))
        answer: dict[str, Any] = {"model_versions": known[page : page + 1]}
        if page + 1 < len(known):
            answer["next_page_token"] = str(page + 1)
        return httpx.Response(200, json=answer)


@pytest.fixture
def fake_mlflow() -> FakeMlflow:
    """A registry that answers at once."""
    return FakeMlflow()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server; yields its URL. Takes some twenty seconds to start."""
    pytest.importorskip("mlflow")
    folder: Path = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts",
    ]  # fmt: skip
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = (folder / "server.log").open("wb")
    with log, subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_healthy(url, server)
            yield url
        finally:
            server.terminate()


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=2).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise TimeoutError(f"MLflow did not come up at {url}")
