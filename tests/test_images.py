"""The images, built for real and started: no tools, no root, no secret inside, and they say what they lack."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from readmit_chassis.testing import free_port

from .conftest import REQUIRED

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "infra" / "images" / "build"
SERVICES = ("ingestor", "trainer", "promoter", "monitor", "inference", "ui")
#: Not ours to keep in shape, but ours to build: the others of docker-compose.yml.
OTHERS = ("operator", "mlflow", "airflow", "jupyter", "locust")

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]


class Engine:
    """The container engine, and images that are built."""

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def run(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, check=False, timeout=timeout_s
        )

    def once(self, name: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a container to its end, with as few rights as in Compose and Kubernetes."""
        return self.run("run", "--rm", *RIGHTS, *options, f"readmit/{name}:0.1.0", *command)

    @contextmanager
    def started(self, name: str, environment: dict[str, str], *options: str) -> Iterator[str]:
        """A running container; yields its name."""
        container = f"test-{name}-{os.getpid()}"
        given = [f"--env={variable}={value}" for variable, value in environment.items()]
        run = ("run", "--detach", f"--name={container}", *RIGHTS, *given, *options, f"readmit/{name}:0.1.0")
        try:
            began = self.run(*run)
            assert began.returncode == 0, began.stderr
            yield container
        finally:
            self.run("rm", "--force", container)


RIGHTS = (
    "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=host",
    # Lower than the defaults of the engine, which not every machine allows it to set.
    "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024",
)  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Every image, built where something in it has changed."""
    if not (shutil.which("podman") and shutil.which("debootstrap") and os.geteuid() == 0):
        if "images" in REQUIRED:
            pytest.fail("READMIT_REQUIRE names images, but podman or debootstrap is missing, or this is not root")
        pytest.skip("images are built with podman and debootstrap, as root")
    built = subprocess.run(
        [sys.executable, BUILD, "--stand-in-base"], capture_output=True, text=True, check=False, timeout=1500
    )
    assert built.returncode == 0, built.stderr
    sys.stdout.write(built.stdout)
    command = subprocess.run([sys.executable, BUILD, "--engine"], capture_output=True, text=True, check=True)
    return Engine(shlex.split(command.stdout))


@pytest.mark.parametrize("name", [*SERVICES, *OTHERS])
def test_an_image_runs_as_a_numbered_user_without_anything_that_installs_or_compiles(engine: Engine, name: str) -> None:
    look = "import importlib.util as u, os, shutil; print(os.getuid(), [t for t in ('pip', 'uv', 'gcc', 'cc', 'make') if shutil.which(t)], [m for m in ('pip', 'setuptools', 'hatchling') if u.find_spec(m)])"  # noqa: E501
    looked = engine.once(name, "-c", look, options=("--entrypoint=python",))
    uid, found = looked.stdout.strip().split(" ", 1)
    assert int(uid) != 0
    assert found == "[] []", looked.stdout
    user = engine.run("image", "inspect", "--format={{.Config.User}}", f"readmit/{name}:0.1.0").stdout.strip()
    assert user.split(":")[0].isdecimal()


@pytest.mark.parametrize("name", [name for name in (*SERVICES, "mlflow", "jupyter") if name != "ui"])
def test_started_without_its_environment_it_says_readably_what_is_missing(engine: Engine, name: str) -> None:
    ended = engine.once(name)  # the UI has a default for everything
    assert ended.returncode == 2, ended.stdout + ended.stderr
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said
    assert "PASSWORD" in said or "SECRET" in said or "TOKEN" in said or "KAFKA" in said


def test_no_secret_and_no_test_is_in_a_build(engine: Engine, tmp_path: Path) -> None:
    """What `.dockerignore` lets through, seen by a build that copies everything."""
    planted = [ROOT / "secrets" / "planted", ROOT / "services" / "ingestor" / "src" / ".env.planted"]
    made = not planted[0].parent.exists()
    planted[0].parent.mkdir(exist_ok=True)
    everything = tmp_path / "Dockerfile"
    everything.write_text("FROM python:3.11.14-slim-bookworm\nCOPY . /context\nRUN find /context -type f\n")
    try:
        for path in planted:
            path.write_text("secret")
        built = engine.run(
            "build", "--network=host", "--isolation=chroot", "--no-cache", "-f", str(everything), str(ROOT),
            timeout_s=300,
        )  # fmt: skip
    finally:
        for path in planted:
            path.unlink()
        if made:
            planted[0].parent.rmdir()
    assert built.returncode == 0, built.stderr
    files = [line for line in built.stdout.splitlines() if line.startswith("/context/")]
    assert "/context/services/ingestor/src/readmit_ingestor/app.py" in files
    unwanted = [f for f in files if "planted" in f or "/tests/" in f or "/.git/" in f or "/.venv" in f or "/docs/" in f]
    assert unwanted == []


@pytest.mark.parametrize(
    ("name", "environment"),
    [
        ("ui", {}),
        ("inference", {
            "INFERENCE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "INFERENCE_S3__ENDPOINT_URL": "http://127.0.0.1:1",
            "INFERENCE_S3__ACCESS_KEY": "none", "INFERENCE_S3__SECRET_KEY": "none",
            "INFERENCE_CACHE_DIR": "/var/cache/readmit",
        }),
    ],
)  # fmt: skip
def test_a_service_starts_with_everything_away_and_is_healthy(
    engine: Engine, name: str, environment: dict[str, str]
) -> None:
    port = free_port()
    with engine.started(name, {**environment, f"{name.upper()}_PORT": str(port)}) as container:
        wait(lambda: httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200, engine, container)
        check = engine.run("inspect", "--format={{json .Config.Healthcheck.Test}}", container).stdout
        assert "alive.py" in check
        asked = engine.run("exec", container, "python", "-IS", "/app/alive.py", "1", "/livez", f"{name.upper()}_PORT")
        assert asked.returncode == 0, asked.stderr


def wait(condition: Callable[[], bool], engine: Engine, container: str, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    pytest.fail(engine.run("logs", container).stderr[-2000:])
