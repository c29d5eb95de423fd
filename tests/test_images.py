"""The images, built and started for real: what is in them, who runs them, what they say and whether they live.

On docker, or on podman with a stand-in base where no image can be pulled; `READMIT_REQUIRE=images` makes the absence of
both a failure. `READMIT_IMAGES=inference,ui` narrows the images.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import psycopg
import pytest

from readmit_chassis.settings import variables
from readmit_chassis.testing import free_port, postgres_server

from .conftest import REQUIRED
from .processes import ROOT, make_secrets, wait_until

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]  # the first builds all that have changed

BUILD = ROOT / "infra" / "images" / "build"


def build_tool() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("images_build", str(BUILD))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


TOOL = build_tool()
SERVICES = ("ingestor", "trainer", "promoter", "monitor", "inference", "ui")
ALL = sorted(TOOL.dockerfiles())
IMAGES = [name for name in ALL if name in os.environ.get("READMIT_IMAGES", ",".join(ALL)).split(",")]
#: Where an image's user may write beside temporary folders: what is mounted there stays.
KEPT = {
    "inference": {"/var/cache/readmit"},
    "ingestor": {"/var/cache/readmit"},
    "jupyter": {"/home/readmit/work"},
    "airflow": {"/var/lib/airflow"},
}
TEMPORARY = {"/tmp", "/var/tmp", "/run/lock"}  # noqa: S108
#: The engine's own limits are more than a container of this machine may ask for. No timers: checks are run by hand.
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096", "--no-healthcheck")
#: What every container of ours gets, in Compose and in Kubernetes too.
GUARDED = (
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges",  # noqa: S108
)  # fmt: skip
#: Nobody listens on the discard port.
NOBODY = "127.0.0.1:9"

LOOK_AROUND = """
import importlib.util, json, os, shutil, sys
tools = "pip pip3 uv easy_install gcc cc g++ make ld as git curl wget".split()
modules = "pip setuptools ensurepip wheel hatchling editables uv".split()
writable = []
for folder, inside, _ in os.walk("/"):
    inside[:] = [] if folder in {"/proc", "/sys", "/dev"} else inside
    if os.access(folder, os.W_OK) and folder not in {"/proc", "/sys", "/dev"}:
        writable.append(folder)
        inside[:] = []
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "python": sys.version_info[:2], "writable": writable,
    "tools": [tool for tool in tools if shutil.which(tool)],
    "modules": [module for module in modules if importlib.util.find_spec(module)],
}))
"""


class Engine:
    """Docker or podman."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._built = False

    def __call__(self, *arguments: Any, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self._command, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300, **options
        )
        assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done

    def built(self, name: str) -> str:
        """The image of this name, as its sources are now; the first call builds all that are asked for."""
        if not self._built:
            podman = Path(self._command[0]).name == "podman"
            stand_in = ["--stand-in-base"] if podman and shutil.which("debootstrap") and os.geteuid() == 0 else []
            done = subprocess.run(
                [sys.executable, BUILD, *stand_in, *dict.fromkeys([*IMAGES, "operator"])],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            sys.stdout.write(done.stdout)
            self._built = True
        return f"readmit/{name}:{TOOL.VERSION}"

    def config(self, name: str) -> dict[str, Any]:
        """What the image says of itself."""
        (found,) = json.loads(self("image", "inspect", self.built(name)).stdout)
        return dict(found["Config"]) | {"Healthcheck": found["Config"].get("Healthcheck") or found.get("Healthcheck")}

    def run(self, image: str, *arguments: str, options: tuple[Any, ...] = ()) -> subprocess.CompletedProcess[str]:
        """A container's exit code and output; it is gone afterwards."""
        return self("run", "--rm", *LIMITS, *options, image, *arguments, check=False)

    @contextmanager
    def container(self, name: str, *options: Any, command: tuple[Any, ...] = ()) -> Iterator[str]:
        """A container of an image as Compose would run it, on this machine's own network; gone afterwards."""
        image = self.built(name)
        container = f"readmit-test-{name}-{os.getpid()}"
        try:
            self("run", "-d", "--name", container, "--network", "host", *LIMITS, *GUARDED, *options, image, *command)
            yield container
        finally:
            self("rm", "--force", "--volumes", container, check=False)

    def lives(self, container: str, name: str) -> None:
        """Wait until the image's own health check, inside the container, says that it is well."""
        health = self.config(name)["Healthcheck"]["Test"]
        assert health[0] == "CMD", "a shell is not needed"

        def well() -> bool:
            if self("inspect", "--format", "{{.State.Running}}", container).stdout.strip() != "true":
                pytest.fail(f"{name} has ended:\n{self.said(container)}")
            return self("exec", container, *health[1:], check=False).returncode == 0

        wait_until(well, f"life in {name}", timeout_s=120)

    def said(self, container: str) -> str:
        logs = self("logs", container)
        return (logs.stdout + logs.stderr)[-4000:]

    def stopped(self, container: str) -> int:
        """The exit code after a polite request to end; 137 when it had to be killed."""
        self("stop", "-t", "20", container)
        return int(self("inspect", "--format", "{{.State.ExitCode}}", container).stdout)


@pytest.fixture(scope="session")
def engine() -> Engine:
    asked = subprocess.run([sys.executable, BUILD, "--engine"], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        if "images" in REQUIRED:
            pytest.fail(f"READMIT_REQUIRE names images, but {asked.stderr}")
        pytest.skip(asked.stderr)
    return Engine(shlex.split(asked.stdout))


def each(*names: str) -> pytest.MarkDecorator:
    """Those of the images that are to be looked at."""
    return pytest.mark.parametrize("name", [name for name in names if name in IMAGES])


# --- What they are built from ---------------------------------------------------------------------------------------


def planted(folder: Path) -> list[str]:
    """A copy of the parts of the tree that matter to a build, and in it what must never reach one."""
    for name in ("requirements", "packages", "services", "infra"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".dockerignore", folder)
    never = [
        ".env", "secrets/postgres_password", "diabetic_data.zip", ".git/config", "infra/secrets/x", "tests/test_x.py",
        "services/ingestor/.env", "services/ingestor/src/.env", "services/ingestor/src/readmit_ingestor/.env.local",
        "services/ingestor/patients.csv", "services/ingestor/tests/test_x.py", "services/ingestor/src/crash.log",
        "services/ingestor/src/__pycache__/old.pyc", "packages/contracts/tests/patients.json", "packages/dump.sql",
        "infra/local/.readmit/secrets.json", "infra/airflow/tests/test_x.py", "infra/kubernetes/secret.yaml",
        "requirements/notes.md",
    ]  # fmt: skip
    for name in never:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("never\n")
    return never


def test_a_build_sees_what_the_images_copy_and_no_secret_data_or_test(engine: Engine, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    never = planted(tree)
    everything = tmp_path / "Dockerfile"
    everything.write_text("FROM scratch\nCOPY . /context/\n")
    chroot = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    engine("build", "-q", "-f", everything, "-t", "readmit-test/context", tree, env=chroot)
    container = engine("create", *LIMITS, "readmit-test/context", "nothing").stdout.strip()
    try:
        engine("export", "-o", tmp_path / "context.tar", container)
    finally:
        engine("rm", container)
        engine("rmi", "readmit-test/context")
    with tarfile.open(tmp_path / "context.tar") as tar:
        paths = [member.name for member in tar if member.isfile()]
    seen = {path.removeprefix("context/") for path in paths if path.startswith("context/")}
    assert sorted(seen & set(never)) == []
    allowed = re.compile(
        r"requirements/[\w-]+\.txt|(packages|services)/\w+/(pyproject\.toml|README\.md|src/[\w/]+\.[\w.]+)"
        r"|infra/(airflow|alertmanager|images|jupyter|kafka|local|locust|mlflow|postgres|prometheus)/[\w/.-]+"
    )
    assert [name for name in seen if not allowed.fullmatch(name)] == []
    for dockerfile in TOOL.dockerfiles().values():
        for source in re.findall(r"^COPY (?!--from)(\S+)", dockerfile.read_text(), re.MULTILINE):
            assert source in seen or [name for name in seen if name.startswith(f"{source}/")], f"{dockerfile}: {source}"


def test_an_image_is_built_again_when_something_that_it_copies_has_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planted(tmp_path)
    monkeypatch.setattr(TOOL, "ROOT", tmp_path)
    dockerfile = tmp_path / "services/ingestor/Dockerfile"
    before = TOOL.sources_digest(dockerfile)
    (tmp_path / "services/ui/README.md").write_text("another image's\n")
    assert TOOL.sources_digest(dockerfile) == before
    for name in ("packages/chassis/src/readmit_chassis/health.py", "requirements/ingestor.txt", ".dockerignore"):
        (tmp_path / name).write_text("changed\n")
        changed = TOOL.sources_digest(dockerfile)
        assert changed != before, name
        before = changed


# --- What is in them ------------------------------------------------------------------------------------------------


@each(*ALL)
def test_an_image_names_its_user_by_number_starts_without_a_shell_and_says_what_it_is(
    engine: Engine, name: str
) -> None:
    config = engine.config(name)
    user = re.fullmatch(r"(\d+):(\d+)", config["User"])
    assert user is not None, "Kubernetes' runAsNonRoot can't tell from a name"
    assert "0" not in user.groups()
    assert [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])][0] not in {"/bin/sh", "sh"}
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"readmit {name}"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert not [variable for variable in config["Env"] if re.search("PASSWORD|SECRET|TOKEN|PIP_|UV_", variable)]


@each(*ALL)
def test_an_image_holds_nothing_that_installs_or_builds_and_its_user_can_change_nothing_of_it(
    engine: Engine, name: str
) -> None:
    looked = engine.run(engine.built(name), "-c", LOOK_AROUND, options=("--entrypoint", "python", "--network", "none"))
    assert looked.returncode == 0, looked.stderr
    found = json.loads(looked.stdout)
    assert (found["uid"], found["gid"], found["python"]) == (10001, 10001, [3, 11])
    assert (found["tools"], found["modules"]) == ([], [])
    assert set(found["writable"]) == (TEMPORARY & set(found["writable"])) | KEPT.get(name, set())
    assert "/tmp" in found["writable"]  # noqa: S108


def test_the_look_around_would_see_an_installer_and_a_root(engine: Engine) -> None:
    engine.built("operator")  # and with it the base
    looked = engine.run(TOOL.BASE, "-c", LOOK_AROUND, options=("--entrypoint", "python", "--network", "none"))
    found = json.loads(looked.stdout)
    assert found["uid"] == 0
    assert "ensurepip" in found["modules"]
    assert found["writable"] == ["/"]


# --- What they say --------------------------------------------------------------------------------------------------


@each("ingestor", "trainer", "promoter", "monitor", "inference")
def test_a_service_without_its_environment_lists_what_is_missing(engine: Engine, name: str) -> None:
    said = engine.run(engine.built(name), options=(*GUARDED, "--network", "none"))
    settings = importlib.import_module(f"readmit_{name}.settings").Settings
    required = {variable for variable, needed in variables(settings, f"{name.upper()}_") if needed}
    assert said.returncode == 2
    assert required
    assert set(re.findall(r"^  (\w+): not set$", said.stderr, re.MULTILINE)) == required
    assert "Traceback" not in said.stderr


@each(*SERVICES)
def test_a_service_with_a_misspelt_variable_names_it(engine: Engine, name: str) -> None:
    wrong = f"{name.upper()}_PROT"
    said = engine.run(engine.built(name), options=(*GUARDED, "--network", "none", "--env", f"{wrong}=1"))
    assert said.returncode == 2
    assert f"{wrong}: no such setting; did you mean {name.upper()}_PORT?" in said.stderr


@each("mlflow", "jupyter", "airflow")
def test_the_images_of_others_programs_say_what_is_missing_too(engine: Engine, name: str) -> None:
    said = engine.run(engine.built(name), options=(*GUARDED, "--network", "none"))
    expected = {"mlflow": "MLFLOW_POSTGRES_PASSWORD", "jupyter": "JUPYTER_TOKEN", "airflow": "AIRFLOW_SECRET_KEY"}
    assert said.returncode == 2
    assert expected[name] in said.stderr
    assert "Traceback" not in said.stderr


@each("operator")
def test_the_operators_command_names_the_secret_that_it_lacks(engine: Engine, name: str) -> None:
    said = engine.run(engine.built(name), "database", "postgres", options=(*GUARDED, "--network", "none"))
    assert said.returncode != 0
    assert "/run/secrets/postgres_password" in said.stderr
    assert "Traceback" not in said.stderr


@each("locust")
def test_the_load_tests_image_finds_its_users(engine: Engine, name: str) -> None:
    said = engine.run(engine.built(name), "--list", options=(*GUARDED, "--network", "none"))
    assert said.returncode == 0, said.stderr
    assert "Clinician" in said.stdout + said.stderr


# --- Whether they live ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "secrets"
    make_secrets(folder)
    return folder


@pytest.fixture(scope="module")
def database(engine: Engine, secrets: Path) -> Iterator[int]:
    """Port of a PostgreSQL that the operator's image has prepared."""
    with postgres_server() as conninfo:
        port = psycopg.conninfo.conninfo_to_dict(conninfo)["port"]
        mounts = [f"--volume={file}:/run/secrets/{file.name}:ro" for file in sorted(secrets.iterdir())]
        prepared = engine.run(
            engine.built("operator"), "database", "127.0.0.1", "--port", str(port),
            options=(*GUARDED, "--network", "host", *mounts),
        )  # fmt: skip
        assert prepared.returncode == 0, prepared.stderr
        yield int(port or 0)


def options_of(service: str, port: int, database: int, secrets: Path) -> list[str]:
    """Environment and secret files as Compose gives them, with nobody at the addresses but PostgreSQL."""
    values = {
        "HOST": "127.0.0.1", "PORT": port, "CACHE_DIR": "/var/cache/readmit", "KAFKA__BOOTSTRAP_SERVERS": NOBODY,
        "POSTGRES__HOST": "127.0.0.1", "POSTGRES__PORT": database, "POSTGRES__DATABASE": "readmit",
        "POSTGRES__USER": f"readmit_{service}", "S3__ENDPOINT_URL": f"http://{NOBODY}", "MLFLOW_URL": f"http://{NOBODY}",
    }  # fmt: skip
    files = {
        "POSTGRES__PASSWORD": f"{service}_postgres_password", "S3__ACCESS_KEY": f"{service}_s3_access_key",
        "S3__SECRET_KEY": f"{service}_s3_secret_key",
    }  # fmt: skip
    prefix = f"{service.upper()}_"
    known = {name for name, _ in variables(importlib.import_module(f"readmit_{service}.settings").Settings, prefix)}
    if not (secrets / files["S3__SECRET_KEY"]).exists():  # S3 is a choice of the ingestor's, and Compose makes none
        known = {name for name in known if not name.startswith(f"{prefix}S3__")}
    options = [f"--env={prefix}{name}={value}" for name, value in values.items() if prefix + name in known]
    options += [
        f"--volume={secrets / file}:/run/secrets/{prefix}{name}:ro"
        for name, file in files.items()
        if prefix + name in known
    ]
    return [*options, *(f"--volume={folder}" for folder in KEPT.get(service, set()))]


@each(*SERVICES)
def test_a_service_lives_on_a_read_only_root_without_rights_and_with_kafka_away_and_ends_when_asked(
    engine: Engine, name: str, database: int, secrets: Path
) -> None:
    port = free_port()
    with engine.container(name, *options_of(name, port, database, secrets)) as container:
        engine.lives(container, name)
        assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 200
        assert engine("exec", container, "id", "-u").stdout.strip() == "10001"
        assert engine.stopped(container) == 0, engine.said(container)


@each("mlflow")
def test_mlflow_lives_on_its_database_and_answers_to_the_names_of_the_platform_only(
    engine: Engine, name: str, database: int, secrets: Path
) -> None:
    files = {
        "MLFLOW_POSTGRES_PASSWORD": "mlflow_postgres_password", "AWS_ACCESS_KEY_ID": "mlflow_s3_access_key",
        "AWS_SECRET_ACCESS_KEY": "mlflow_s3_secret_key",
    }  # fmt: skip
    values = {
        "MLFLOW_POSTGRES_HOST": "127.0.0.1", "MLFLOW_POSTGRES_PORT": database, "MLFLOW_POSTGRES_DATABASE": "mlflow",
        "MLFLOW_POSTGRES_USER": "readmit_mlflow", "MLFLOW_S3_ENDPOINT_URL": f"http://{NOBODY}",
    }  # fmt: skip
    port = free_port()
    options = [f"--env={variable}={value}" for variable, value in values.items()]
    options += [f"--volume={secrets / file}:/run/secrets/{secret}:ro" for secret, file in files.items()]
    command = (*engine.config(name)["Cmd"], "--host", "127.0.0.1", "--port", port)

    def answer(path: str, host: str) -> int:
        try:
            return httpx.get(f"http://127.0.0.1:{port}{path}", headers={"host": host}).status_code
        except httpx.TransportError:
            return 0

    with engine.container(name, *options, command=command) as container:
        wait_until(lambda: answer("/health", "10.1.2.3:5000") == 200, "MLflow", timeout_s=120)
        search = "/api/2.0/mlflow/registered-models/search"
        assert [answer(search, host) for host in ("mlflow:5000", "localhost:30500", "evil.example")] == [200, 200, 403]
        assert engine.stopped(container) == 0, engine.said(container)


@each("inference")
def test_the_health_check_says_no_where_nothing_answers(engine: Engine, name: str) -> None:
    command = engine.config(name)["Healthcheck"]["Test"][1:]
    said = engine.run(engine.built(name), *command[1:], options=("--entrypoint", command[0], "--network", "none"))
    assert said.returncode == 1
    assert "nothing answers on port 30601" in said.stderr
