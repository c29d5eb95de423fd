"""A wrong environment is one readable message and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from readmit_chassis.settings import KafkaSettings, PostgresSettings, S3Settings, load_settings, service_config


class ProbeSettings(BaseSettings):
    model_config = service_config("PROBE_")

    port: int = 1234
    kafka: KafkaSettings


class StatefulSettings(ProbeSettings):
    postgres: PostgresSettings


class StoringSettings(ProbeSettings):
    s3: S3Settings | None = None


def test_settings_come_from_prefixed_nested_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    monkeypatch.setenv("PROBE_KAFKA__IDEMPOTENT_PRODUCER", "false")
    settings = load_settings(ProbeSettings)
    assert settings.kafka == KafkaSettings(bootstrap_servers="127.0.0.1:9092", idempotent_producer=False)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "PROBE_KAFKA__BOOTSTRAP_SERVERS: not set"),
        ({"PROBE_KAFKA__BOOTSTRAP_SERVERS": "k:1", "PROBE_PROT": "1"}, "PROBE_PROT: no such setting; did you mean"),
        ({"PROBE_KAFKA__BOOTSTRAP_SERVERS": "k:1", "PROBE_PORT": "x"}, "PROBE_PORT: Input should be a valid integer"),
    ],
    ids=["missing", "mistyped name", "wrong type"],
)
def test_a_wrong_environment_is_explained(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as exit_:
        load_settings(ProbeSettings)
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


def test_a_fragment_that_may_be_absent_is_absent_or_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROBE_KAFKA__BOOTSTRAP_SERVERS", "k:1")
    assert load_settings(StoringSettings).s3 is None
    monkeypatch.setenv("PROBE_S3__ENDPOINT_URL", "http://s3")
    with pytest.raises(SystemExit):
        load_settings(StoringSettings)
    said = capsys.readouterr().err
    assert "PROBE_S3__ACCESS_KEY: not set" in said
    assert "PROBE_S3__SECRET_KEY: not set" in said
    for name in ("ACCESS_KEY", "SECRET_KEY"):
        monkeypatch.setenv(f"PROBE_S3__{name}", "x")
    settings = load_settings(StoringSettings)
    assert settings.s3 is not None
    assert settings.s3.endpoint_url == "http://s3"


def write_secrets(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    monkeypatch.setenv("READMIT_SECRETS_DIR", str(folder))
    for name, text in files.items():
        (folder / name).write_text(text)


def test_a_secret_comes_from_the_file_of_its_variables_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_secrets(
        tmp_path, monkeypatch, PROBE_POSTGRES__PASSWORD="from the file\n", OTHER_POSTGRES__PASSWORD="not ours"
    )
    for name, value in {"KAFKA__BOOTSTRAP_SERVERS": "k:1", "POSTGRES__HOST": "h", "POSTGRES__DATABASE": "d",
                        "POSTGRES__USER": "u"}.items():  # fmt: skip
        monkeypatch.setenv(f"PROBE_{name}", value)
    settings = load_settings(StatefulSettings)
    assert settings.postgres.host == "h"
    assert settings.postgres.password.get_secret_value() == "from the file"


def test_a_variable_wins_over_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_secrets(tmp_path, monkeypatch, PROBE_KAFKA__BOOTSTRAP_SERVERS="file:1", PROBE_PORT="4321")
    monkeypatch.setenv("PROBE_KAFKA__BOOTSTRAP_SERVERS", "variable:1")
    settings = load_settings(ProbeSettings)
    assert (settings.kafka.bootstrap_servers, settings.port) == ("variable:1", 4321)


def test_a_mistyped_secret_file_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_secrets(tmp_path, monkeypatch, PROBE_KAFKA__BOOTSTRAP_SERVER="k:1")
    with pytest.raises(SystemExit):
        load_settings(ProbeSettings)
    said = capsys.readouterr().err
    assert f"PROBE_KAFKA__BOOTSTRAP_SERVER in {tmp_path}: no such setting; did you mean" in said


def test_a_password_with_quotes_survives_the_connection_string_and_never_shows() -> None:
    settings = PostgresSettings.model_validate({"host": "h", "database": "d", "user": "u", "password": "it's \\ hard"})
    assert "password='it\\'s \\\\ hard'" in settings.conninfo()
    assert "hard" not in repr(settings)
