"""SeaweedFS with Compose's command and the generated identities, where its program `weed` is on PATH."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError

from readmit_chassis.testing import free_port, wait_for_port

from .processes import ROOT, make_secrets, needs, readmit, running, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

COMPOSE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def port_with_grpc() -> int:
    """A free port whose neighbour 10,000 higher, where SeaweedFS puts gRPC, exists too."""
    while (port := free_port()) > 55_000:
        pass
    return port


def s3_client(port: int, secrets: Path, user: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
        aws_access_key_id=(secrets / f"{user}_s3_access_key").read_text(),
        aws_secret_access_key=(secrets / f"{user}_s3_secret_key").read_text(),
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1},
                      request_checksum_calculation="when_required", response_checksum_validation="when_required"),
    )  # fmt: skip


@pytest.fixture
def seaweedfs(tmp_path: Path) -> Iterator[tuple[int, int, Path]]:
    """SeaweedFS with Compose's command on other ports: S3's port, the master's, the secrets."""
    weed = needs("weed", required_as="seaweedfs")
    secrets = tmp_path / "secrets"
    make_secrets(secrets)
    ports = {part: port_with_grpc() for part in ("s3", "master", "volume", "filer")}
    moved = {"-s3.port=8333": f"-s3.port={ports['s3']}", "-s3.ip.bind=0.0.0.0": "-s3.ip.bind=127.0.0.1",
             "-s3.config=/run/secrets/s3_identities.json": f"-s3.config={secrets / 's3_identities.json'}"}  # fmt: skip
    command = COMPOSE["s3"]["command"]
    assert set(moved) <= set(command)
    (tmp_path / "data").mkdir()
    argv = [weed, "-logtostderr=true", *[moved.get(part, part) for part in command],
            f"-dir={tmp_path / 'data'}", "-volume.max=0", "-master.volumeSizeLimitMB=64",
            *[f"-{part}.port={ports[part]}" for part in ("master", "volume", "filer")]]  # fmt: skip
    with running(argv, tmp_path / "weed.log", cwd=tmp_path / "data"):
        wait_for_port(ports["s3"])
        wait_until(lambda: httpx.get(f"http://127.0.0.1:{ports['s3']}/healthz").is_success, "healthy SeaweedFS")
        yield ports["s3"], ports["master"], secrets


def test_seaweedfs_lets_each_user_do_what_its_work_needs_and_strangers_nothing(
    seaweedfs: tuple[int, int, Path],
) -> None:
    port, _, secrets = seaweedfs
    assert "made" in readmit("bucket", f"http://127.0.0.1:{port}", "--secrets-dir", secrets)
    models = {"Bucket": "mlflow-artifacts"}
    clients = {user: s3_client(port, secrets, user) for user in ("admin", "mlflow", "trainer", "promoter", "inference")}
    clients["admin"].create_bucket(Bucket="other")
    clients["admin"].put_object(Bucket="other", Key="k", Body=b"1")
    wait_until(lambda: not denied(clients["trainer"].put_object, **models, Key="model", Body=b"1"), "writable volume")

    def may(user: str) -> set[str]:
        client = clients[user]
        tried: dict[str, Callable[[], bool]] = {
            "read": lambda: denied(client.get_object, **models, Key="model"),
            "write": lambda: denied(client.put_object, **models, Key=user, Body=b"1"),
            "list": lambda: denied(client.list_objects_v2, **models),
            "read elsewhere": lambda: denied(client.get_object, Bucket="other", Key="k"),
            "write elsewhere": lambda: denied(client.put_object, Bucket="other", Key=user, Body=b"1"),
            "make buckets": lambda: denied(client.create_bucket, Bucket=f"new-{user}"),
        }
        return {what for what, refused in tried.items() if not refused()}

    assert may("trainer") == {"write"}
    assert may("inference") == may("promoter") == {"read"}
    assert may("mlflow") == {"read", "write", "list"}
    assert may("admin") == {"read", "write", "list", "read elsewhere", "write elsewhere", "make buckets"}
    assert httpx.get(f"http://127.0.0.1:{port}/mlflow-artifacts/model").status_code == httpx.codes.FORBIDDEN


def test_the_console_of_seaweedfs_asks_for_its_password(seaweedfs: tuple[int, int, Path], tmp_path: Path) -> None:
    _, master, secrets = seaweedfs
    port = port_with_grpc()
    script = COMPOSE["s3-console"]["command"][0].replace("$$", "$")
    moved = {
        "/run/secrets": str(secrets),
        "-port=23646": f"-ip=127.0.0.1 -port={port}",
        "127.0.0.1:9333": f"127.0.0.1:{master}",
        "-dataDir=/tmp": f"-dataDir={tmp_path}",
    }
    for ours, theirs in moved.items():
        assert ours in script
        script = script.replace(ours, theirs)
    with running([*COMPOSE["s3-console"]["entrypoint"], script], tmp_path / "console.log", cwd=tmp_path):
        wait_for_port(port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as stranger:
            assert stranger.get("/health").is_success
            assert stranger.get("/object-store/buckets").headers["location"] == "/login"
        assert logs_in(port, (secrets / "s3_console_password").read_text())
        assert not logs_in(port, "guessed")


def logs_in(port: int, password: str) -> bool:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as browser:
        hidden = re.search(r'name="csrf_token" value="([^"]+)"', browser.get("/login").text)
        form = {"username": "admin", "password": password} | ({"csrf_token": hidden[1]} if hidden else {})
        browser.post("/login", data=form)
        return browser.get("/object-store/buckets").is_success


def denied(call: Callable[..., Any], **arguments: Any) -> bool:
    """Whether the server refuses it. Raises for any other error."""
    try:
        call(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] in {"AccessDenied", "403"}:
            return True
        if error.response["Error"]["Code"] == "InternalError":  # it has no volume to write to yet
            return True
        raise
    return False
