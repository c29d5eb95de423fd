"""What benchmarks of reloading share: a broker, an S3 server, pods as processes, and a promoter that they hear."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import serving_client
from aiokafka import AIOKafkaConsumer
from scipy import stats
from serving_client import Seen
from serving_load import cores, encounters
from serving_models import bundle_option, two_bundles

from readmit_bundle import Bundle, Manifest, pack, write_bundle
from readmit_bundle.archive import MANIFEST_FILE, MODEL_FILE
from readmit_chassis.envelope import new_envelope
from readmit_chassis.failures import Transient
from readmit_chassis.kafka import create_topics, make_broker, publish
from readmit_chassis.s3 import S3Store
from readmit_chassis.settings import KafkaSettings
from readmit_chassis.testing import embedded_kafka, free_port, gate, s3_server
from readmit_contracts.events import MODEL_STREAM, ModelLoaded, ModelPromoted, RolloutChanged
from readmit_contracts.topics import MODEL_LOADED, MODEL_PROMOTED, ROLLOUT_CHANGED, TOPICS
from readmit_inference.testing import ROOT, promoted, rollout

T = TypeVar("T")

_BUCKET = ROOT.removeprefix("s3://").partition("/")[0]
_PATIENCE_S = 60.0


def variant(bundle: Bundle, number: int) -> Bundle:
    """The same model under another digest: as much work to load, and never the one that is kept."""
    manifest = Manifest.model_validate_json(bundle.files[MANIFEST_FILE])
    lineage = manifest.lineage.model_copy(update={"code_version": f"variant {number}"})
    return pack(manifest.model_copy(update={"lineage": lineage}), bundle.files[MODEL_FILE])


def bodies_file(folder: Path, source: Path | None) -> Path:
    """2,000 encounters, one per line."""
    path = folder / "bodies.jsonl"
    path.write_text("".join(f"{json.dumps(encounter)}\n" for encounter in encounters(source)))
    return path


class Pod:
    """One inference process on the last core."""

    def __init__(self, python: Path, folder: Path, parts: Parts) -> None:
        self.name = folder.name
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._command = [str(python), "-m", "readmit_inference"]
        self._log = folder.with_suffix(".log")
        self._environment = os.environ | {
            "INFERENCE_PORT": str(self.port),
            "INFERENCE_POD_ID": self.name,
            "INFERENCE_CACHE_DIR": str(folder),
            "INFERENCE_KAFKA__BOOTSTRAP_SERVERS": parts.kafka.bootstrap_servers,
            "INFERENCE_KAFKA__IDEMPOTENT_PRODUCER": "false",
            "INFERENCE_S3__ENDPOINT_URL": parts.s3.endpoint_url,
            "INFERENCE_S3__ACCESS_KEY": parts.s3.access_key,
            "INFERENCE_S3__SECRET_KEY": parts.s3.secret_key.get_secret_value(),
            "INFERENCE_PSEUDONYM_KEY": "a key of the benchmark's own",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns at once."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stderr=log, stdout=log)
        os.sched_setaffinity(self._process.pid, {cores()[-1]})

    def until(self, path: str) -> float:
        """Wait until `path` is answered with 200; `time.monotonic` then."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}{path}", timeout=2):  # noqa: S310  our own address
                    return time.monotonic()
            except (urllib.error.URLError, ConnectionError):
                if self._running.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{self.name} is not there:\n{self._log.read_text()[-2000:]}") from None
                time.sleep(0.005)

    def stop(self) -> None:
        """As the platform does: SIGTERM, and wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=30)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("not started")
        return self._process

    @property
    def rss_kib(self) -> int:
        """Resident memory now."""
        status = Path(f"/proc/{self._running.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    @property
    def own_kib(self) -> int:
        """Resident memory that it shares with nobody, so what one pod more on the machine takes."""
        rollup = Path(f"/proc/{self._running.pid}/smaps_rollup").read_text()
        return sum(int(rollup.partition(f"Private_{kind}:")[2].split()[0]) for kind in ("Clean", "Dirty"))


@dataclass(frozen=True)
class Heard:
    """A `model.loaded`, and when it came (`time.monotonic`)."""

    loaded: ModelLoaded
    at: float


def _is_load(loaded: ModelLoaded) -> bool:
    return loaded.occasion == "load" and loaded.role == "champion"


class Promoter:
    """Writes bundles to S3, publishes `model.promoted`, and hears what pods say. A thread with its own event loop."""

    def __init__(self, kafka: KafkaSettings, store: S3Store) -> None:
        self._store = store
        self._kafka = kafka
        self._broker = make_broker(kafka, "promoter")
        self._heard: list[Heard] = []
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._epoch = self._revision = 0

    def __enter__(self) -> Promoter:
        self._thread.start()
        self._do(self._broker.start())
        self._do(self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.cancel()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def put(self, bundle: Bundle) -> ModelPromoted:
        """The promotion of a bundle that now lies in S3, with the next epoch; not announced yet."""
        self._epoch += 1
        return promoted(bundle, write_bundle(self._store.put, ROOT, bundle), self._epoch)

    def again(self, promotion: ModelPromoted) -> ModelPromoted:
        """A rollback to what was promoted before."""
        self._epoch += 1
        return promotion.model_copy(update={"epoch": self._epoch, "action": "rollback"})

    def announce(self, promotion: ModelPromoted) -> float:
        """Publish; when that began (`time.monotonic`)."""
        began = time.monotonic()
        self._do(self._publish(promotion))
        return began

    def wait(self, promotion: ModelPromoted, pods: int) -> list[Heard]:
        """What so many pods have said of the promotion. Ends the benchmark when one refuses or says nothing."""

        def said() -> list[Heard]:
            return [heard for heard in self._heard if heard.loaded.epoch == promotion.epoch and _is_load(heard.loaded)]

        with self._news:
            if not self._news.wait_for(lambda: len(said()) >= pods, _PATIENCE_S):
                raise SystemExit(f"only {len(said())} of {pods} pods have loaded epoch {promotion.epoch}")
            found = said()
        if refused := [heard.loaded.reason for heard in found if heard.loaded.outcome == "refused"]:
            raise SystemExit(f"a pod refused: {refused[0]}")
        return found

    def settle(self, promotion: ModelPromoted, pods: int) -> float:
        """Publish and wait; seconds until the last pod's answer had come back."""
        began = self.announce(promotion)
        return max(heard.at for heard in self.wait(promotion, pods)) - began

    def announce_when_back(self, promotion: ModelPromoted) -> None:
        """Publish, again and again until the broker takes it."""
        while True:
            try:
                self.announce(promotion)
            except Transient:
                time.sleep(0.1)
            else:
                return

    def try_out(self, bundle: Bundle, stage: Literal["shadow", "canary", "ended"], share: float = 0.0) -> None:
        """Change the rollout beside the newest promotion, and publish that."""
        self._revision += 1
        changed = rollout(self._store, bundle, self._revision, stage, share=share, champion_epoch=self._epoch)
        self._do(self._publish_rollout(changed))

    async def _publish(self, promotion: ModelPromoted) -> None:
        envelope = new_envelope(ModelPromoted.EVENT_TYPE, source="promoter", subject=str(promotion.epoch))
        await publish(self._broker, topic=MODEL_PROMOTED.name, key=MODEL_STREAM, event=promotion, envelope=envelope)

    async def _publish_rollout(self, changed: RolloutChanged) -> None:
        envelope = new_envelope(RolloutChanged.EVENT_TYPE, source="promoter", subject=str(changed.revision))
        await publish(self._broker, topic=ROLLOUT_CHANGED.name, key=MODEL_STREAM, event=changed, envelope=envelope)

    async def _begin(self) -> None:
        self._consumer = AIOKafkaConsumer(
            MODEL_LOADED.name, bootstrap_servers=self._kafka.bootstrap_servers, auto_offset_reset="earliest"
        )
        await self._consumer.start()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for record in self._consumer:
            heard = Heard(ModelLoaded.model_validate_json(record.value), time.monotonic())
            with self._news:
                self._heard.append(heard)
                self._news.notify_all()

    async def _end(self) -> None:
        await asyncio.gather(self._listening, return_exceptions=True)
        await self._consumer.stop()
        await self._broker.stop()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_S)


class Parts:
    """The broker, the S3 server and the promoter of one benchmark. Pods reach the servers through gates."""

    def __init__(self, stack: ExitStack) -> None:
        """What is started here ends with the stack."""
        self._stack = stack
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it complains of every outage that is played
        port = free_port()
        address = stack.enter_context(embedded_kafka(advertised_port=port))
        server = stack.enter_context(s3_server(_BUCKET))
        self._gates = [
            stack.enter_context(gate(_port(address), port)),
            stack.enter_context(gate(_port(server.endpoint_url))),
        ]
        self.kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}", idempotent_producer=False)
        self.s3 = server.model_copy(update={"endpoint_url": f"http://127.0.0.1:{self._gates[1].port}"})
        topics = [(topic.name, topic.partitions, topic.config()) for topic in TOPICS]
        asyncio.run(create_topics(self.kafka.bootstrap_servers, topics))
        self.promoter = stack.enter_context(Promoter(self.kafka, S3Store(server)))

    def shut(self) -> None:
        """Both servers are away."""
        for each in self._gates:
            each.shut()

    def open(self) -> None:
        """Both are back."""
        for each in self._gates:
            each.open()

    def pod(self, python: Path, folder: Path) -> Pod:
        """A pod, not started yet, whose cache is this folder."""
        pod = Pod(python, folder, self)
        self._stack.callback(pod.stop)
        return pod


class Bench:
    """The parts, the models and the load that the measurements of one benchmark share."""

    def __init__(self, stack: ExitStack, options: argparse.Namespace) -> None:
        """What is started ends with the stack. `options` are those of `bench_options`."""
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="readmit-bench-")))
        self.parts = Parts(stack)
        self.promoter = self.parts.promoter
        self._bodies = bodies_file(self.folder, options.source)
        self._bundles = two_bundles(options.bundles)
        self._python, self._connections = options.python, options.connections
        self._numbers = iter(range(1, sys.maxsize))

    def new_bundle(self) -> Bundle:
        """One that no pod has; the two models take turns."""
        number = next(self._numbers)
        return variant(self._bundles[number % 2], number)

    def started(self, pods: int) -> list[Pod]:
        """Pods that answer."""
        promotion = self.promoter.put(self.new_bundle())
        made = [self.parts.pod(self._python, self.folder / f"pod-{promotion.epoch}-{i}") for i in range(pods)]
        for pod in made:
            pod.start()
        self.promoter.announce(promotion)
        for pod in made:
            pod.until("/readyz")
        self.promoter.wait(promotion, pods)
        self.while_loaded(made, None, lambda: time.sleep(2))  # the first seconds of a process are not its usual ones
        return made

    def saturation(self, pods: list[Pod]) -> float:
        """Requests per second that they answer together at most, once what the log keeps in memory is full."""
        seen = self.while_loaded(pods, None, lambda: time.sleep(9))
        return seen.between(float(seen.due[-1]) - 4.0, float(seen.due[-1])).rate

    def while_loaded(self, pods: list[Pod], rate: float | None, work: Callable[[], None]) -> Seen:
        """What the clients saw while this was done."""
        to = self.folder / "seen.npz"
        addresses = [pod.address for pod in pods]
        with serving_client.loading(
            to, addresses, self._bodies, core=cores()[0], connections=self._connections, rate=rate
        ):
            work()
        return Seen.read(to)


def bench_options(description: str | None) -> argparse.ArgumentParser:
    """Of every benchmark that reloads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    bundle_option(parser)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="interpreter of the pods")
    parser.add_argument("--source", type=Path, help="the UCI archive, for real encounters in place of generated ones")
    parser.add_argument("--connections", type=int, default=32)
    return parser


def metric(pod: Pod, name: str) -> float:
    """A sample of a pod's metrics, summed over its labels."""
    with urllib.request.urlopen(f"{pod.address}/metrics", timeout=10) as answer:  # noqa: S310  our own address
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[{{ ]", line))


def growth(values: Sequence[float], spans: int = 16) -> tuple[float, float]:
    """Mean growth from one value to the next, and how far off it may be: half the 95 % interval.

    From the growths over so many spans, since neighbouring values are not independent.
    """
    ends = np.asarray(values, dtype=np.float64)[np.linspace(0, len(values) - 1, spans + 1).astype(int)]
    steps = np.diff(ends) / ((len(values) - 1) / spans)
    return float(steps.mean()), float(stats.t.ppf(0.975, spans - 1) * steps.std(ddof=1) / np.sqrt(spans))


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
