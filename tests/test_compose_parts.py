"""What of Compose can run without its images: the same settings, jobs and configurations on the real programs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from readmit_chassis.migrations import apply_migrations
from readmit_chassis.testing import free_port, postgres_server, wait_for_port
from readmit_ingestor import store
from readmit_local import kafka as local_kafka

from .processes import ROOT, make_secrets, needs, readmit, running, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

COMPOSE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    make_secrets(tmp_path / "secrets")
    return tmp_path / "secrets"


# --- Apache Kafka ---------------------------------------------------------------------------------------------------


def broker_properties() -> dict[str, str]:
    """The environment of Compose as the image reads it: KAFKA_A_B is a.b."""
    environment = dict(COMPOSE["kafka"]["environment"])
    del environment["KAFKA_HEAP_OPTS"]  # the start script's, not the broker's
    assert not [name for name in environment if "__" in name], "these mean something else"
    return {name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in environment.items()}


@pytest.fixture
def apache_kafka(tmp_path: Path) -> Iterator[str]:
    """Apache Kafka with Compose's environment on other addresses."""
    java = needs("java", required_as="apache-kafka")
    needs("mvn", required_as="apache-kafka")
    port, controller = free_port(), free_port()
    properties = broker_properties() | {
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "log.dirs": str(tmp_path / "kafka"),
    }
    file = tmp_path / "server.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    command = [
        java,
        *COMPOSE["kafka"]["environment"]["KAFKA_HEAP_OPTS"].split(),
        "-cp",
        f"{local_kafka._libraries()}/*",
    ]
    subprocess.run(
        [*command, "kafka.tools.StorageTool", "format", "-t", "5L6g3nShT-eMCtK--X86sw", "-c", file],
        check=True, capture_output=True,
    )  # fmt: skip
    with running([*command, "kafka.Kafka", file], tmp_path / "kafka.log", cwd=tmp_path):
        answers = local_kafka._answers_admin(port)
        wait_until(lambda: asyncio.run(answers()), "Kafka")
        yield f"127.0.0.1:{port}"


async def configs(admin: AIOKafkaAdminClient, kind: ConfigResourceType, names: list[str]) -> dict[str, dict[str, str]]:
    """The settings in force of brokers or topics."""
    responses = await admin.describe_configs([ConfigResource(kind, name) for name in names])
    return {
        resource[3]: {entry[0]: entry[1] for entry in resource[4]}
        for response in responses
        for resource in response.resources
    }


async def test_kafka_understands_its_environment_and_gets_the_topics_of_topics_yaml(apache_kafka: str) -> None:
    for _ in range(2):  # the job runs at every `up`
        assert "every topic is there" in await asyncio.to_thread(readmit, "topics", apache_kafka)
    declared = {t["name"]: t for t in yaml.safe_load((ROOT / "infra/kafka/topics.yaml").read_text())["topics"]}
    admin = AIOKafkaAdminClient(bootstrap_servers=apache_kafka)
    await admin.start()
    try:
        described = {t["topic"]: len(t["partitions"]) for t in await admin.describe_topics() if not t["is_internal"]}
        of_topics = await configs(admin, ConfigResourceType.TOPIC, list(declared))
        (of_broker,) = (await configs(admin, ConfigResourceType.BROKER, ["1"])).values()
    finally:
        await admin.close()
    assert described == {name: topic["partitions"] for name, topic in declared.items()}
    for name, topic in declared.items():
        assert topic["config"].items() <= of_topics[name].items()
    # Kafka ignores a misspelt property without a word; one that it knows, it describes.
    moved = {"listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs"}
    ours = broker_properties()
    assert moved <= set(ours)
    assert {name: of_broker.get(name) for name in ours if name not in moved} == {
        name: value for name, value in ours.items() if name not in moved
    }


# --- PostgreSQL -----------------------------------------------------------------------------------------------------

OWNERS = {
    "raw_data": "readmit_ingestor",
    "clean_data": "readmit_ingestor",
    "training": "readmit_trainer",
    "governance": "readmit_promoter",
    "monitoring": "readmit_monitor",
}
VISITORS = {
    "readmit": {
        "readmit_ingestor", "readmit_trainer", "readmit_promoter", "readmit_monitor", "readmit_viewer",
        "readmit_analyst",
    },
    "mlflow": {"readmit_mlflow"},
    "airflow": {"readmit_airflow"},
    "postgres": set(),
    "template1": set(),
}  # fmt: skip
ROLES = set().union(*VISITORS.values())
DATA = "clean_data.diabetes_train", "clean_data.diabetes_validation", "clean_data.batch_info", "clean_data.datasets"


class Database:
    """A PostgreSQL that asks everybody for a password, prepared by `readmit database`."""

    def __init__(self, conninfo: str, secrets: Path) -> None:
        self.port = int(psycopg.conninfo.conninfo_to_dict(conninfo)["port"])
        self.secrets = secrets

    def prepare(self) -> str:
        return readmit("database", "127.0.0.1", "--port", self.port, "--secrets-dir", self.secrets)

    def conninfo(self, role: str, database: str = "readmit") -> str:
        name = "postgres_password" if role == "postgres" else f"{role.removeprefix('readmit_')}_postgres_password"
        return psycopg.conninfo.make_conninfo(
            host="127.0.0.1", port=self.port, user=role, dbname=database, password=(self.secrets / name).read_text()
        )

    def run(self, role: str, statement: str | sql.Composed, database: str = "readmit") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.conninfo(role, database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode() if isinstance(statement, str) else statement)
            return cursor.fetchall() if cursor.description else []

    def reads(self, role: str, table: str) -> bool:
        return self._may(role, sql.SQL("SELECT * FROM {}").format(sql.Identifier(*table.split("."))))

    def writes(self, role: str, table: str) -> bool:
        return self._may(role, sql.SQL("DELETE FROM {}").format(sql.Identifier(*table.split("."))))

    def _may(self, role: str, statement: sql.Composed) -> bool:
        """Whether the role has the right to, also when it lifts its own default of only reading."""
        options = "-c default_transaction_read_only=off"
        with psycopg.connect(self.conninfo(role), options=options, autocommit=True) as connection:
            try:
                connection.execute(statement)
            except InsufficientPrivilege:
                return False
        return True


@contextmanager
def bare_database(secrets: Path) -> Iterator[Database]:
    """Nothing in it; its superuser has the password of the secret."""
    make_secrets(secrets)
    with postgres_server() as conninfo:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            password = (secrets / "postgres_password").read_text()
            connection.execute(f"ALTER ROLE postgres PASSWORD '{password}'".encode())
            (hba,) = connection.execute("SHOW hba_file").fetchone() or ("",)
            Path(hba).write_text("host all all 127.0.0.1/32 scram-sha-256\n")
            connection.execute("SELECT pg_reload_conf()")
        wait_until(lambda: not welcome(conninfo), "server that asks for passwords")
        yield Database(conninfo, secrets)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Database]:
    with bare_database(tmp_path / "secrets") as database:
        yield database


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Prepared twice, as by two `up`, with the ingestor's tables."""
    with bare_database(tmp_path_factory.mktemp("database") / "secrets") as database:
        for _ in range(2):
            assert "8 roles" in database.prepare()
        apply_migrations(database.conninfo("readmit_ingestor"), store.SCHEMA, "readmit_ingestor")
        yield database


def welcome(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_role_enters_its_own_database_makes_tables_in_its_own_schema_and_is_nothing_more(database: Database) -> None:
    enters = database.run(
        "postgres",
        "SELECT datname, rolname FROM pg_database, pg_roles WHERE rolname LIKE 'readmit%' AND datname <> 'template0' "
        "AND has_database_privilege(rolname, datname, 'CONNECT')",
    )
    assert set(enters) == {(name, role) for name, roles in VISITORS.items() for role in roles}
    creates = database.run(
        "postgres",
        "SELECT nspname, rolname FROM pg_namespace, pg_roles WHERE rolname LIKE 'readmit%' "
        "AND has_schema_privilege(rolname, nspname, 'CREATE')",
    )
    assert set(creates) == set(OWNERS.items())
    above = database.run(
        "postgres",
        "SELECT rolname, rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls FROM pg_roles "
        "WHERE rolname LIKE 'readmit%'",
    )
    assert dict(above) == dict.fromkeys(ROLES, False)
    database.run("readmit_monitor", "CREATE TABLE monitoring.windows (x int)")
    assert database.writes("readmit_monitor", "monitoring.windows")
    assert not database.reads("readmit_promoter", "monitoring.windows")
    for role in ("mlflow", "airflow"):
        database.run(f"readmit_{role}", "CREATE TABLE public.runs (x int)", role)


def test_the_analyst_explores_what_may_be_explored_and_never_the_test_split(database: Database) -> None:
    for table in DATA:
        assert database.reads("readmit_analyst", table)
        assert not database.writes("readmit_analyst", table)
    for table in ("clean_data.diabetes_test", "clean_data.diabetes_excluded", "raw_data.diabetes"):
        assert not database.reads("readmit_analyst", table)


def test_the_monitor_reads_what_was_trained_on_and_no_more(database: Database) -> None:
    for table in ("clean_data.diabetes_train", "clean_data.batch_info", "clean_data.datasets"):
        assert database.reads("readmit_monitor", table)
    for table in ("clean_data.diabetes_validation", "clean_data.diabetes_test", "raw_data.diabetes"):
        assert not database.reads("readmit_monitor", table)


def test_the_viewer_reads_every_table_of_both_schemas_also_later_ones_and_writes_none(database: Database) -> None:
    database.run("readmit_ingestor", "CREATE TABLE raw_data.later (x int)")
    tables = database.run(
        "postgres",
        "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('raw_data', 'clean_data')",
    )
    assert {("raw_data.diabetes",), ("clean_data.diabetes_test",), ("raw_data.later",)} <= set(tables)
    for (table,) in tables:
        assert database.reads("readmit_viewer", table)
        assert not database.writes("readmit_viewer", table)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        database.run("readmit_viewer", "CREATE TABLE raw_data.mine (x int)")


def test_a_rotated_password_counts_from_the_next_run_on(database: Database) -> None:
    before = database.conninfo("readmit_trainer")
    assert welcome(before)
    make_secrets(database.secrets, "--rotate", "trainer_postgres_password")
    assert not welcome(database.conninfo("readmit_trainer"))
    database.prepare()
    assert welcome(database.conninfo("readmit_trainer"))
    assert not welcome(before)


def test_a_database_of_before_the_readers_gets_them_and_they_read_what_was_there(bare: Database) -> None:
    bare.run("postgres", "CREATE ROLE readmit_ingestor LOGIN", "postgres")
    bare.run("postgres", "CREATE DATABASE readmit", "postgres")
    bare.run("postgres", "CREATE SCHEMA raw_data AUTHORIZATION readmit_ingestor")
    bare.run("postgres", "CREATE TABLE raw_data.old (x int); ALTER TABLE raw_data.old OWNER TO readmit_ingestor")
    bare.prepare()
    assert bare.reads("readmit_viewer", "raw_data.old")


def test_what_keeps_the_database_from_being_prepared_is_one_line(bare: Database) -> None:
    port = free_port()
    nobody = readmit("database", "127.0.0.1", "--port", port, "--wait", 0, "--secrets-dir", bare.secrets, code=1)
    assert f"no PostgreSQL at 127.0.0.1:{port}" in nobody
    target = ("database", "127.0.0.1", "--port", bare.port, "--secrets-dir", bare.secrets)
    make_secrets(bare.secrets, "--rotate", "postgres_password")
    assert "password authentication failed" in readmit(*target, code=1)
    (bare.secrets / "viewer_postgres_password").unlink()
    assert "viewer_postgres_password" in readmit(*target, code=1)


# --- S3 -------------------------------------------------------------------------------------------------------------


def test_the_bucket_is_made_once_and_a_refused_key_is_one_line(secrets: Path, tmp_path: Path) -> None:
    port = free_port()
    access_key, secret_key = ((secrets / f"admin_s3_{part}_key").read_text() for part in ("access", "secret"))
    (tmp_path / "s3").mkdir()
    rclone = Path(sys.executable).parent / "rclone"
    argv = [rclone, "serve", "s3", tmp_path / "s3", "--addr", f"127.0.0.1:{port}", "--config", "/dev/null"]
    with running(argv, tmp_path / "s3.log", env={**os.environ, "RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"'}):
        wait_for_port(port)
        job = ("bucket", f"http://127.0.0.1:{port}", "--secrets-dir", secrets)
        assert "bucket mlflow-artifacts made" in readmit(*job)
        (tmp_path / "s3" / "mlflow-artifacts" / "kept").touch()
        assert "bucket mlflow-artifacts is there" in readmit(*job)
        assert (tmp_path / "s3" / "mlflow-artifacts" / "kept").exists()
        make_secrets(secrets, "--rotate", "admin_s3_secret_key")
        assert "bucket mlflow-artifacts not made" in readmit(*job, code=1)
