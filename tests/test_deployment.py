"""What Compose and the images say agrees with the code: no misspelt name, missing file or password, nobody as root."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from readmit_chassis.access.api_keys import ApiKeys
from readmit_chassis.settings import variables
from readmit_inference.access.scopes import SCOPES
from readmit_promoter.roles import SCOPES as PROMOTER_SCOPES
from readmit_promoter.roles import may
from readmit_promoter.settings import Settings as PromoterSettings

from .processes import snippet

ROOT = Path(__file__).parents[1]
SERVICES = ("ingestor", "trainer", "promoter", "monitor", "inference", "ui")
FILE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
COMPOSE: dict[str, dict[str, Any]] = FILE["services"]
DOCKERFILES = sorted([*ROOT.glob("services/*/Dockerfile"), *ROOT.glob("infra/*/Dockerfile")])
JOBS = {name for name, service in COMPOSE.items() if str(service["restart"]).startswith("on-failure")}

#: Port of the host: service and its port. The first block is the original platform's, number by number.
PORTS = {
    5432: ("postgres", 5432),
    5050: ("pgadmin", 5050),
    8888: ("jupyter", 8888),
    6379: ("redis", 6379),
    5555: ("flower", 5555),
    30500: ("mlflow", 5000),
    30382: ("s3", 8333),
    30901: ("s3", 23646),  # the console, which shares the network of s3
    30601: ("balancer", 30601),
    30602: ("ui", 30602),
    31090: ("prometheus", 9090),
    31300: ("grafana", 3000),
    31000: ("locust-master", 8089),
    # Ours.
    30611: ("ingestor", 30611),
    30612: ("trainer", 30612),
    30613: ("promoter", 30613),
    30614: ("monitor", 30614),
    31093: ("alertmanager", 9093),
    31080: ("kafka-console", 8080),
    31808: ("airflow-api-server", 8080),
}
#: Ports that only the network of containers sees.
INTERNAL_PORTS = {"kafka": {9092}, "inference": {30601}, "locust-master": {5557}}
#: Who gets a secret that does not bear the service's own name.
SECRETS_OF_OTHERS = {
    "database": {
        "postgres_password", "ingestor_postgres_password", "trainer_postgres_password", "promoter_postgres_password",
        "monitor_postgres_password", "mlflow_postgres_password", "airflow_postgres_password",
        "viewer_postgres_password", "analyst_postgres_password",
    },
    "s3": {"s3_identities.json"},
    "s3-console": {"s3_console_password"},
    "bucket": {"admin_s3_access_key", "admin_s3_secret_key"},
    "pgadmin": {"viewer_postgres_password"},
    "alertmanager": {"alert_webhook_url"},
    "jupyter": {"analyst_postgres_password"},
    "airflow": {"redis_password"},
    "flower": {"redis_password"},
}  # fmt: skip
#: Why a container may write to its own file system.
WRITABLE = {
    "kafka": "its start script writes server.properties beside the program",
    "pgadmin": "its start script writes the configuration beside the program",
}
#: Why a lasting container has no health check.
UNCHECKED = {
    "airflow-dag-processor": "has no port; the health of the api-server shows it",
    "airflow-worker": "has no port but that of its logs; Flower shows it",
    "locust-worker": "has no port; the master shows it",
}


def secrets_of(service: dict[str, Any]) -> dict[str, str]:
    """Name of each secret, and the file's path in the container."""
    found = {}
    for secret in service.get("secrets", []):
        source, target = (secret, secret) if isinstance(secret, str) else (secret["source"], secret["target"])
        found[source] = f"/run/secrets/{target}"
    return found


def networks_of(name: str) -> dict[str, list[str]]:
    """The networks that a service is in, each with the service's names there."""
    service = COMPOSE[name]
    shared = str(service.get("network_mode", ""))
    if shared.startswith("service:"):
        return networks_of(shared.removeprefix("service:"))
    given = service["networks"]
    aliases = given if isinstance(given, dict) else {network: {} for network in given}
    return {network: [name, *(more or {}).get("aliases", [])] for network, more in aliases.items()}


def known_as(name: str, host: str) -> set[str]:
    """The services that `host` means to the service `name`."""
    mine = networks_of(name)
    return {
        other
        for other in COMPOSE
        if "network_mode" not in COMPOSE[other]
        for network, names in networks_of(other).items()
        if network in mine and host in names
    }


def ports_of(name: str) -> set[int]:
    return {inside for owner, inside in PORTS.values() if owner == name} | INTERNAL_PORTS.get(name, set())


def texts(value: Any) -> Iterator[str]:
    """Every text in a piece of YAML."""
    match value:
        case dict():
            for key, inner in value.items():
                yield from (str(key), *texts(inner))
        case list():
            for inner in value:
                yield from texts(inner)
        case _:
            yield str(value)


def validated(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_file_is_what_the_compose_specification_allows_and_a_planted_error_is_not(tmp_path: Path) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert validated(ROOT / "docker-compose.yml").returncode == 0
    planted = tmp_path / "docker-compose.yml"
    for right, wrong in (("depends_on:", "depend_on:"), ("condition: service_healthy", "condition: service_happy")):
        assert right in text
        planted.write_text(text.replace(right, wrong, 1))
        assert validated(planted).returncode == 1, wrong


@pytest.mark.parametrize("name", COMPOSE)
def test_what_a_service_refers_to_is_there(name: str) -> None:
    service = COMPOSE[name]
    for other, how in service.get("depends_on", {}).items():
        assert how["condition"] == ("service_completed_successfully" if other in JOBS else "service_healthy"), other
        assert set(COMPOSE[other].get("profiles", [])) <= set(service.get("profiles", [])), other
    assert set(secrets_of(service)) <= set(FILE["secrets"])
    assert set(networks_of(name)) <= set(FILE["networks"])
    for volume in service.get("volumes", []):
        source, _, target = (
            volume.rpartition(":") if volume.count(":") < 2 else volume.removesuffix(":ro").partition(":")
        )
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert volume.endswith(":ro"), "what the repository holds is not written to"
        elif source:
            assert source in FILE["volumes"], source
        assert target.startswith("/")
    if "build" in service:
        assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["image"].startswith("readmit/")


def test_nothing_is_declared_that_nobody_uses() -> None:
    used = {source for service in COMPOSE.values() for source in secrets_of(service)}
    assert used == set(FILE["secrets"])
    assert {network for name in COMPOSE for network in networks_of(name)} == set(FILE["networks"])
    volumes = {str(volume).split(":")[0] for service in COMPOSE.values() for volume in service.get("volumes", [])}
    assert set(FILE["volumes"]) <= volumes


def test_every_secret_is_one_that_make_secrets_makes_and_every_one_made_is_used() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "infra/secrets/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert set(FILE["secrets"]) == set(module.NAMES)
    assert {name: secret["file"] for name, secret in FILE["secrets"].items()} == {
        name: f"./secrets/{name}" for name in module.NAMES
    }


@pytest.mark.parametrize("name", COMPOSE)
def test_a_service_gets_its_own_secrets_and_nobody_elses(name: str) -> None:
    own = name.partition("-")[0]
    foreign = {secret for secret in secrets_of(COMPOSE[name]) if not secret.startswith((f"{own}_", f"{name}_"))}
    foreign = {secret for secret in foreign if not secret.startswith(name.replace("-", "_"))}
    assert foreign <= SECRETS_OF_OTHERS.get(name, set()) | SECRETS_OF_OTHERS.get(own, set())


@pytest.mark.parametrize("service", SERVICES)
def test_compose_gives_each_service_what_its_settings_require_and_nothing_they_do_not_know(service: str) -> None:
    settings = importlib.import_module(f"readmit_{service}.settings").Settings
    known = dict(variables(settings, f"{service.upper()}_"))
    told = COMPOSE[service]["environment"]
    environment = set(told)
    files = {
        path.removeprefix("/run/secrets/")
        for path in secrets_of(COMPOSE[service]).values()
        if not any(path in str(value) for value in told.values())  # a setting names this file
    }
    assert not files & environment
    assert files | environment <= set(known)
    assert {name for name, required in known.items() if required} <= files | environment


def test_inference_understands_the_list_of_keys_that_make_secrets_makes(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    subprocess.run([sys.executable, ROOT / "infra/secrets/generate.py", "--directory", folder], check=True)
    keys = ApiKeys(SCOPES)
    keys.use((folder / "inference_api_keys.json").read_bytes())
    for client in ("ui", "locust", "jupyter"):
        known = keys.client_of((folder / f"{client}_inference_api_key").read_bytes())
        assert known is not None
        assert known.label == client


def test_keys_are_asked_for_where_that_is_said_and_every_client_of_ours_has_one() -> None:
    told = COMPOSE["inference"]["environment"]["INFERENCE_API_KEYS_FILE"]
    assert told == "${READMIT_REQUIRE_KEYS:+/run/secrets/inference_api_keys.json}"
    assert secrets_of(COMPOSE["inference"])["inference_api_keys.json"] == "/run/secrets/inference_api_keys.json"
    for client, name in (
        ("ui", "UI_INFERENCE_API_KEY"),
        ("locust-worker", "READMIT_INFERENCE_API_KEY"),
        ("jupyter", "READMIT_INFERENCE_API_KEY"),
    ):
        assert f"/run/secrets/{name}" in secrets_of(COMPOSE[client]).values()


def test_the_promoter_alone_knows_who_may_command_it_and_understands_the_list_of_make_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    subprocess.run([sys.executable, ROOT / "infra/secrets/generate.py", "--directory", folder], check=True)
    keys = ApiKeys(PROMOTER_SCOPES)
    keys.use((folder / "promoter_api_keys.json").read_bytes())
    operator = keys.client_of((folder / "operator_promoter_api_key").read_bytes())
    assert operator is not None
    assert may(operator, "admin")
    told = COMPOSE["promoter"]["environment"]["PROMOTER_API_KEYS_FILE"]
    assert secrets_of(COMPOSE["promoter"])["promoter_api_keys.json"] == told
    assert [name for name in COMPOSE if "promoter_api_keys.json" in secrets_of(COMPOSE[name])] == ["promoter"]
    assert not [name for name in FILE["secrets"] if name.endswith("_promoter_api_key")], "people's keys stay with them"


def test_a_policy_of_ones_own_comes_as_the_page_about_compose_says(tmp_path: Path) -> None:
    """Compose lays mappings over those of the file, and adds to its lists."""
    override = tmp_path / "docker-compose.override.yml"
    override.write_text(snippet("docs/deploy/compose.md", "PROMOTER_POLICY_FILE"))
    assert validated(override).returncode == 0, validated(override).stdout
    ((name, added),) = yaml.safe_load(override.read_text())["services"].items()
    promoter = COMPOSE["promoter"]
    assert (name, set(added)) == ("promoter", {"environment", "volumes"})
    assert isinstance(promoter["environment"], dict)
    known = dict(variables(PromoterSettings, "PROMOTER_"))
    (volume,) = added["volumes"]
    source, target, mode = volume.split(":")
    assert added["environment"] == {"PROMOTER_POLICY_FILE": target}
    assert set(added["environment"]) <= set(known) - set(promoter["environment"])
    assert (source, mode) == ("./policy.yaml", "ro")
    mounted = [str(each).split(":")[1] for each in promoter.get("volumes", [])] + list(secrets_of(promoter).values())
    assert not [path for path in mounted if Path(target).is_relative_to(path)]


def test_no_password_stands_in_the_file() -> None:
    for name, service in COMPOSE.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|PSEUDONYM|FERNET|WEBHOOK", variable):
                assert value in secrets_of(service).values(), f"{name}: {variable} is no path of one of its secrets"
    everything = "\n".join(texts(FILE))
    assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", everything), "an address with a password in it"
    assert set(re.findall(r"\$\{(\w+)", everything)) == {"READMIT_BIND", "READMIT_REQUIRE_KEYS"}, (
        "nothing else comes from the environment"
    )


def test_the_ports_are_the_originals_and_only_this_machine_reaches_them() -> None:
    published = {}
    for name, service in COMPOSE.items():
        for port in service.get("ports", []):
            bind, _, mapping = port.partition("}:")
            assert bind == "${READMIT_BIND:-127.0.0.1", f"{name}: {port}"
            outside, _, inside = mapping.partition(":")
            assert int(outside) not in published
            published[int(outside)] = (name, int(inside))
    assert published == PORTS


@pytest.mark.parametrize("name", COMPOSE)
def test_every_container_has_limits_a_pinned_image_and_no_more_rights_than_it_needs(name: str) -> None:
    service = COMPOSE[name]
    limits = service["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) <= 2
    assert re.fullmatch(r"\d+[MG]", limits["memory"])
    tag = service["image"].rpartition(":")[2]
    assert re.search(r"\d+\.\d+", tag), "a tag that names a release"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) != (name in WRITABLE)
    assert "privileged" not in service
    assert not [volume for volume in service.get("volumes", []) if "docker.sock" in volume]
    assert service["logging"]["options"]["max-size"]


@pytest.mark.parametrize("name", sorted(set(COMPOSE) - JOBS))
def test_every_lasting_service_is_restarted_and_says_whether_it_is_healthy(name: str) -> None:
    service = COMPOSE[name]
    assert service["restart"] == "unless-stopped"
    if "healthcheck" not in service:
        of_image = "build" in service and "HEALTHCHECK" in (ROOT / service["build"]["dockerfile"]).read_text()
        assert of_image != (name in UNCHECKED)


@pytest.mark.parametrize("name", COMPOSE)
def test_every_address_that_a_service_is_told_is_a_service_that_it_can_reach_on_a_port_that_is_there(name: str) -> None:
    environment = COMPOSE[name].get("environment", {})
    values = [value for variable, value in environment.items() if not variable.endswith("DATABASE")]
    told = list(texts([values, COMPOSE[name].get("command", [])]))
    addresses = [
        (host, int(port) if port else None)
        for text in told
        for host, port in re.findall(r"(?:^|//|@|\")([a-z][a-z0-9-]+)(?::(\d+))?(?=$|/|\")", text)
        if any(host in names for other in COMPOSE for names in networks_of(other).values())
    ]
    for host, port in addresses:
        if host == name and name == "kafka":
            continue
        reached = known_as(name, host)
        assert len(reached) == 1, f"{name} asks for {host}: {reached}"
        if port is not None:
            assert port in ports_of(*reached), f"{name} asks for {host}:{port}"


def test_a_misspelt_address_would_be_seen() -> None:
    urls = [text for service in COMPOSE.values() for text in texts(service.get("environment", {})) if "://" in text]
    hosts = {match[1] for url in urls if (match := re.match(r"https?://([^:/]+)", url))}
    names = {known for name in COMPOSE for names in networks_of(name).values() for known in names}
    assert hosts
    assert hosts <= names | {"localhost"}  # localhost: what a person types


def test_serving_has_no_way_to_the_database_and_clients_have_none_to_a_pod_past_the_balancer() -> None:
    assert "database" not in networks_of("inference")
    assert known_as("inference", "postgres") == set()
    for client in ("ui", "locust-worker", "jupyter"):
        assert known_as(client, "inference") == {"balancer"}, client
        assert known_as(client, "inference-pods") == set(), client


def test_pods_of_inference_share_no_folder() -> None:
    assert COMPOSE["inference"]["deploy"]["replicas"] == 2
    assert COMPOSE["inference"]["volumes"] == [COMPOSE["inference"]["environment"]["INFERENCE_CACHE_DIR"]]


def test_prometheus_finds_every_pod_of_what_it_scrapes_where_it_listens() -> None:
    scraped = yaml.safe_load((ROOT / "infra/prometheus/prometheus.yml").read_text())["scrape_configs"]
    found = {}
    for job in scraped:
        for lookup in job.get("dns_sd_configs", []):
            (name,) = lookup["names"]
            assert known_as("prometheus", name) == {job["job_name"]}
            assert lookup["port"] in ports_of(job["job_name"])
            found[job["job_name"]] = name
        for static in job.get("static_configs", []):
            for target in static["targets"]:
                host, _, port = target.partition(":")
                (owner,) = {"prometheus"} if host == "localhost" else known_as("prometheus", host)
                assert int(port) in ports_of(owner)
    assert found == {service: f"{service}-pods" for service in SERVICES}


def test_pgadmin_is_told_a_server_that_it_reaches_a_role_that_only_reads_and_where_the_password_is() -> None:
    servers = yaml.safe_load((ROOT / "infra/pgadmin/servers.json").read_text())["Servers"]
    (server,) = servers.values()
    assert {"Name", "Group", "Host", "Port", "MaintenanceDB", "Username", "ConnectionParameters"} <= set(server)
    assert known_as("pgadmin", server["Host"]) == {"postgres"}
    assert server["Port"] in ports_of("postgres")
    script = COMPOSE["pgadmin"]["command"][0]
    # A line of its password file: host, port, database, role.
    assert f"{server['Host']}:{server['Port']}:{server['MaintenanceDB']}:{server['Username']}:%s" in script
    # pgAdmin copies this file to where `passfile` points, with the rights that libpq wants.
    assert f"> {COMPOSE['pgadmin']['environment']['PGPASS_FILE']}" in script
    assert server["ConnectionParameters"]["passfile"] == "/.pgpass"
    assert not [key for key in server if "password" in key.lower()]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_image_copies_what_exists_installs_from_a_hashed_lock_and_does_not_run_as_root(path: Path) -> None:
    text = path.read_text()
    for source in re.findall(r"^COPY (?!--from)(?:--\S+ )*(\S+)", text, re.MULTILINE):
        assert (ROOT / source).exists(), source
    lock = re.search(r"--require-hashes -r \S*?([\w-]+\.txt)", text)
    assert lock is not None
    assert (ROOT / "requirements" / lock[1]).exists()
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] != "root"


def test_every_image_of_compose_has_its_dockerfile() -> None:
    built = [service["build"]["dockerfile"] for service in COMPOSE.values() if "build" in service]
    assert set(built) == {str(path.relative_to(ROOT)) for path in DOCKERFILES}


def test_the_page_about_compose_names_every_port_profile_and_job() -> None:
    page = (ROOT / "docs/deploy/compose.md").read_text()
    assert not [port for port in PORTS if f"{port}" not in page]
    profiles = {profile for service in COMPOSE.values() for profile in service.get("profiles", [])}
    assert profiles == {"airflow", "jupyter", "load"}
    assert not [name for name in (*profiles, *JOBS) if f"`{name}`" not in page]
