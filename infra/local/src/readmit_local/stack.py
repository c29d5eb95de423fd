"""The stack: which parts there are, in what order they start, and where to find them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from readmit_local.kafka import apache_part, embedded_part, provision_topics
from readmit_local.mlflow import mlflow_part
from readmit_local.object_store import gate_part, store_part
from readmit_local.observation import observation_parts
from readmit_local.ports import HOST, pod_names
from readmit_local.postgres import apply_roles, postgres_part
from readmit_local.process_identity import identity
from readmit_local.services import service_part
from readmit_local.state import State
from readmit_local.supervisor import Supervisor

KafkaKind = Literal["embedded", "apache"]
_WITH_A_URL = ("ui", "ingestor", "trainer", "promoter", "monitor", "mlflow", "s3", "prometheus", "alertmanager")


@dataclass(frozen=True, slots=True)
class Stack:
    """One running stack on one state."""

    state: State
    kafka: KafkaKind
    ports: dict[str, int]
    secrets: dict[str, str]
    supervisor: Supervisor
    pods: int = 1
    policy: Path | None = None

    def description(self) -> dict[str, Any]:
        """What others need to find it; `stack.json`."""
        url = {name: f"http://{HOST}:{port}" for name, port in self.ports.items()}
        up = os.getpid()
        return {
            "kafka": self.kafka,
            "up": {"pid": up, "started": identity(up)},
            "ports": self.ports,
            "urls": {
                **{name: url[name] for name in _WITH_A_URL if name in url},
                "inference": [url[name] for name in pod_names(self.pods)],
                "kafka": f"{HOST}:{self.ports['kafka']}",
            },
            "pids": {},
            "started": {},
        }

    async def start_parts(self) -> None:
        """PostgreSQL with its roles, the object store, Kafka with its topics."""
        await asyncio.gather(self._start_postgres(), self._start_store_and_kafka())

    async def start_mlflow(self) -> None:
        """MLflow, which takes 20 s: nobody waits for it before they need it."""
        await self.supervisor.start(mlflow_part(self.ports, self.secrets), timeout_s=180)

    async def start_ingestor(self) -> None:
        """The ingestor: with it, work can begin."""
        await self._start_service("ingestor", "ingestor")

    async def start_other_services(self) -> None:
        """All others at once: none of them needs another to start."""
        pods = [self._start_service("inference", pod) for pod in pod_names(self.pods)]
        others = [self._start_service(name, name) for name in ("trainer", "promoter", "monitor", "ui")]
        await asyncio.gather(*pods, *others)

    async def start_observation(self, webhook_url: str | None) -> None:
        """Alertmanager and Prometheus. Both programs must be there."""
        for part in observation_parts(self.state, self.ports, self.pods, webhook_url):
            await self.supervisor.start(part)

    async def _start_service(self, service: str, name: str) -> None:
        idempotent = self.kafka == "apache"  # the embedded broker has no InitProducerId
        part = service_part(
            service, name, self.state, self.ports, self.secrets, idempotent=idempotent, policy=self.policy
        )
        await self.supervisor.start(part, timeout_s=180)

    async def _start_postgres(self) -> None:
        part = await asyncio.to_thread(
            postgres_part, self.state, self.ports["postgres"], self.secrets["postgres/postgres"]
        )
        await self.supervisor.start(part)
        await apply_roles(self.ports["postgres"], self.secrets)

    async def _start_store_and_kafka(self) -> None:
        port, internal = self.ports["kafka"], self.ports["kafka_internal"]
        await self.supervisor.start(store_part(self.state, self.ports["s3"], self.secrets))
        if self.kafka == "apache":
            broker = await asyncio.to_thread(apache_part, self.state, port, internal)
        else:
            await self.supervisor.start(gate_part(self.state, internal, self.ports["s3"]))
            broker = embedded_part(port, internal, self.secrets)
        await self.supervisor.start(broker)
        await provision_topics(f"{HOST}:{port}")
