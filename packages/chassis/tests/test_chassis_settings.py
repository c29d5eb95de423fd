"""A wrong environment is one readable message and exit code 2."""

from __future__ import annotations

import pytest
from pydantic_settings import BaseSettings

from readmit_chassis.settings import KafkaSettings, PostgresSettings, load_settings, service_config


class ProbeSettings(BaseSettings):
    model_config = service_config("PROBE_")

    port: int = 1234
    kafka: KafkaSettings


def test_settings_come_from_prefixed_nested_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    monkeypatch.setenv("PROBE_KAFKA__IDEMPOTENT_PRODUCER", "false")
    settings = load_settings(ProbeSettings)
    assert settings.kafka == KafkaSettings(bootstrap_servers="127.0.0.1:9092", idempotent_producer=False)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "PROBE_KAFKA: not set"),
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


def test_a_password_with_quotes_survives_the_connection_string_and_never_shows() -> None:
    settings = PostgresSettings.model_validate({"host": "h", "database": "d", "user": "u", "password": "it's \\ hard"})
    assert "password='it\\'s \\\\ hard'" in settings.conninfo()
    assert "hard" not in repr(settings)
