"""The services as processes: each is told its own addresses and its own credentials, and nobody else's."""

from __future__ import annotations

import sys
from pathlib import Path

from readmit_local.object_store import REGION
from readmit_local.part import Part, answers, child_env
from readmit_local.ports import HOST
from readmit_local.state import State, cache_dir, s3_key

#: Only the ingestor leaves this machine, so only it learns how.
_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
_KAFKA, _POSTGRES, _S3 = "kafka", "postgres", "s3"
_NEEDS = {
    "ingestor": (_KAFKA, _POSTGRES),
    "trainer": (_KAFKA, _POSTGRES, _S3),
    "promoter": (_KAFKA, _POSTGRES, _S3),
    "inference": (_KAFKA, _S3),
    "monitor": (_KAFKA, _POSTGRES),
    "ui": (),
}


def service_part(
    service: str, name: str, state: State, ports: dict[str, int], secrets: dict[str, str], *, idempotent: bool,
    policy: Path | None = None,
) -> Part:  # fmt: skip
    """One process of a service; `name` tells the pods of one service apart. `policy`: the promoter's file."""
    prefix = f"{service.upper()}_"
    env = service_env(service, name, state, ports, secrets, idempotent=idempotent)
    if service == "promoter" and policy is not None:
        env["POLICY_FILE"] = str(policy)
    own = {prefix + variable: value for variable, value in env.items()}
    return Part(
        name,
        (sys.executable, "-m", f"readmit_{service}"),
        child_env(own, prefix, also=_NETWORK if service == "ingestor" else ()),
        answers(f"http://{HOST}:{ports[name]}/livez"),
    )


def service_env(
    service: str, name: str, state: State, ports: dict[str, int], secrets: dict[str, str], *, idempotent: bool
) -> dict[str, str]:
    """What a service is told, without its prefix."""
    env = {"HOST": HOST, "PORT": str(ports[name])}
    if _KAFKA in _NEEDS[service]:
        env |= {
            "KAFKA__BOOTSTRAP_SERVERS": f"{HOST}:{ports['kafka']}",
            "KAFKA__IDEMPOTENT_PRODUCER": str(idempotent).lower(),
        }
    if _POSTGRES in _NEEDS[service]:
        env |= {
            "POSTGRES__HOST": HOST,
            "POSTGRES__PORT": str(ports["postgres"]),
            "POSTGRES__DATABASE": "readmit",
            "POSTGRES__USER": f"readmit_{service}",
            "POSTGRES__PASSWORD": secrets[f"postgres/readmit_{service}"],
        }
    if _S3 in _NEEDS[service]:
        secret = secrets[f"s3/{service}"]
        env |= {
            "S3__ENDPOINT_URL": f"http://{HOST}:{ports['s3']}",
            "S3__ACCESS_KEY": s3_key(service, secret),
            "S3__SECRET_KEY": secret,
            "S3__REGION": REGION,
        }
    return env | _particulars(service, name, state, ports, secrets)


def _particulars(
    service: str, name: str, state: State, ports: dict[str, int], secrets: dict[str, str]
) -> dict[str, str]:
    mlflow_url = f"http://{HOST}:{ports['mlflow']}"
    match service:
        case "ingestor":
            return {"CACHE_DIR": str(cache_dir() / "downloads"), "SCHEDULE_HOURS": "0"}
        case "trainer":
            return {"MLFLOW_URL": mlflow_url, "BUCKET": "mlflow-artifacts"}
        case "promoter":
            return {"MLFLOW_URL": mlflow_url, "API_KEYS_FILE": str(state.promoter_keys)}
        case "monitor":
            return {}
        case "inference":
            return {
                "POD_ID": name,
                "CACHE_DIR": str(state.root / "cache" / name),
                "PSEUDONYM_KEY": secrets["pseudonyms/inference"],
            }
        case _:
            others = ("inference", "ingestor", "trainer", "promoter", "monitor")
            return {f"{other.upper()}_URL": f"http://{HOST}:{ports[other]}" for other in others}
