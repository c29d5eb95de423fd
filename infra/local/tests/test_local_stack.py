"""The real parts: PostgreSQL, object store and Kafka as processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from readmit_contracts.topics import TOPICS
from readmit_local.kafka import embedded_part, provision_topics
from readmit_local.object_store import s3_key
from readmit_local.part import listens
from readmit_local.ports import choose_ports
from readmit_local.postgres import apply_roles, conninfo
from readmit_local.process_identity import identity
from readmit_local.stack import KafkaKind, Stack
from readmit_local.state import State
from readmit_local.supervisor import Supervisor

pytestmark = pytest.mark.stack


@asynccontextmanager
async def running(state: State, kafka: KafkaKind = "embedded") -> AsyncIterator[Stack]:
    """The parts without MLflow and services, stopped afterwards."""
    stack = Stack(state, kafka, choose_ports("free", {}), state.secrets(), Supervisor(state, lambda _: None))
    state.write_stack(stack.description())
    try:
        await stack.start_parts()
        yield stack
    finally:
        await stack.supervisor.stop()


@pytest.fixture(params=["embedded", "apache"])
def kafka(request: pytest.FixtureRequest, required: frozenset[str]) -> KafkaKind:
    """Both kinds of broker."""
    if (
        request.param == "apache"
        and not (shutil.which("java") and shutil.which("mvn"))
        and "apache-kafka" not in required
    ):
        pytest.skip("Apache Kafka needs java and mvn")
    kind: KafkaKind = request.param
    return kind


def query(stack: Stack, role: str, statement: str, database: str = "readmit") -> list[tuple[object, ...]]:
    """Run a statement as a role."""
    info = conninfo(stack.ports["postgres"], role, stack.secrets[f"postgres/{role}"], database)
    with psycopg.connect(info, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


async def test_roles_have_their_own_rights_and_no_more(state: State) -> None:
    async with running(state) as stack:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(conninfo(stack.ports["postgres"], "readmit_trainer", "guessed", "readmit"))
        (method,) = query(
            stack, "postgres", "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method <> 'scram-sha-256'"
        )
        assert method == (0,)
        query(stack, "readmit_ingestor", "CREATE TABLE clean_data.diabetes_test (x int)")
        query(stack, "readmit_ingestor", "CREATE TABLE clean_data.diabetes_train (x int)")
        query(stack, "readmit_ingestor", "GRANT USAGE ON SCHEMA clean_data TO readmit_trainer")
        query(stack, "readmit_ingestor", "GRANT SELECT ON clean_data.diabetes_train TO readmit_trainer")
        query(stack, "readmit_trainer", "SELECT * FROM clean_data.diabetes_train")
        for role, forbidden in (
            ("readmit_trainer", "SELECT * FROM clean_data.diabetes_test"),
            ("readmit_trainer", "INSERT INTO clean_data.diabetes_train VALUES (1)"),
            ("readmit_promoter", "SELECT * FROM clean_data.diabetes_train"),
            ("readmit_promoter", "CREATE TABLE training.mine (x int)"),
            ("readmit_ingestor", "CREATE TABLE public.mine (x int)"),
            ("readmit_ingestor", "CREATE ROLE mine"),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                query(stack, role, forbidden)
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            query(stack, "readmit_mlflow", "SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            query(stack, "readmit_trainer", "SELECT 1", database="mlflow")
        query(stack, "readmit_mlflow", "CREATE TABLE runs (x int)", database="mlflow")
        query(stack, "readmit_monitor", "CREATE TABLE monitoring.windows (x int)")
        query(stack, "readmit_viewer", "SELECT * FROM clean_data.diabetes_test")


async def test_roles_are_applied_again_to_a_server_of_before_with_the_passwords_of_now(state: State) -> None:
    async with running(state) as stack:
        query(stack, "postgres", "DROP OWNED BY readmit_monitor; DROP ROLE readmit_monitor")
        stack.secrets["postgres/readmit_trainer"] = "another"
        await apply_roles(stack.ports["postgres"], stack.secrets)
        query(stack, "readmit_trainer", "SELECT 1")
        query(stack, "readmit_monitor", "CREATE TABLE monitoring.windows (x int)")


async def test_topics_are_there_with_their_partitions_and_dead_letters(state: State, kafka: KafkaKind) -> None:
    async with running(state, kafka) as stack:
        await provision_topics(stack.description()["urls"]["kafka"])  # again: those that exist are fine
        admin = AIOKafkaAdminClient(bootstrap_servers=stack.description()["urls"]["kafka"])
        await admin.start()
        try:
            described = await admin.describe_topics()
        finally:
            await admin.close()
        partitions = {topic["topic"]: len(topic["partitions"]) for topic in described}
        expected = {topic.name: topic.partitions for topic in TOPICS} | {topic.dead_letter: 1 for topic in TOPICS}
        assert {name: partitions.get(name) for name in expected} == expected
        pids = state.stack()["pids"]
        assert await listens(stack.ports["kafka"])()
    assert {identity(pid) for pid in pids.values()} == {None}
    assert not await listens(stack.ports["kafka"])()


async def test_a_killed_broker_goes_on_after_its_last_message(state: State, kafka: KafkaKind) -> None:
    """Across a restart of the process, and of the whole stack on other ports, no offset is given twice."""
    offsets = []
    for _ in range(2):
        async with running(state, kafka) as stack:
            offsets.append(await sent(stack))
            killed = state.stack()["pids"]["kafka"]
            os.kill(killed, signal.SIGKILL)
            async with asyncio.timeout(60):
                while state.stack()["pids"].get("kafka", killed) == killed:  # noqa: ASYNC110  another process writes it
                    await asyncio.sleep(0.05)
                while not await embedded_part(stack.ports["kafka"], 0, stack.secrets).ready():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            offsets.append(await sent(stack))
    assert offsets == [0, 1, 2, 3]


async def sent(stack: Stack) -> int:
    """The offset that a new message got."""
    producer = AIOKafkaProducer(bootstrap_servers=stack.description()["urls"]["kafka"], acks="all")
    await producer.start()
    try:
        record = await producer.send_and_wait(TOPICS[0].name, b"{}", key=b"k")
    finally:
        await producer.stop()
    offset: int = record.offset
    return offset


def test_a_key_is_long_enough_for_the_store_and_tells_nothing_of_the_secret() -> None:
    key = s3_key("ui", "a" * 48)
    assert len(key) >= 10
    assert "aaaa" not in key
