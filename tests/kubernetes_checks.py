"""What must hold in rendered Kubernetes documents; each check is pure and returns the problems that it found."""

from __future__ import annotations

import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import yaml

from readmit_chassis.settings import variables

from .kubernetes_documents import (
    Documents,
    Workload,
    behind,
    container_port,
    named,
    of_kind,
    references,
    secret_files,
    selects,
    workloads,
)

ROOT = Path(__file__).parents[1]
SERVICES = ("ingestor", "trainer", "promoter", "monitor", "inference", "ui")
#: NodePort: Service and its port. The first block is the original platform's, number by number.
NODE_PORTS = {
    30500: ("mlflow", 5000),
    30382: ("s3", 8333),
    30901: ("s3", 23646),
    30601: ("inference", 30601),
    30602: ("ui", 30602),
    31090: ("prometheus", 9090),
    31300: ("grafana", 3000),
    31000: ("locust", 8089),
    # Ours.
    30611: ("ingestor", 30611),
    30612: ("trainer", 30612),
    30613: ("promoter", 30613),
    30614: ("monitor", 30614),
    31093: ("alertmanager", 9093),
    31080: ("kafka-console", 8080),
    30550: ("pgadmin", 5050),
    30888: ("jupyter", 8888),
    31808: ("airflow", 8080),
}
#: Which of the three machines a pod belongs to, by its name's first word.
ROLES = {
    "data": [
        "kafka", "postgres", "s3", "mlflow", "ingestor", "trainer", "promoter", "pgadmin", "jupyter", "airflow",
        "topics", "database", "bucket",
    ],
    "inference": ["inference", "ui"],
    "observation": ["monitor", "prometheus", "alertmanager", "grafana", "kafka-console", "locust"],
}  # fmt: skip
#: Whose image needs more than the rest, and why; docker-compose.yml says the same.
LESS_RESTRICTED = {
    ("pgadmin", "readOnlyRootFilesystem"): "its start script writes the configuration beside the program",
    ("pgadmin", "capabilities.add"): "its Python carries the file capability NET_BIND_SERVICE",
}
#: Seconds that a service of ours takes at most to drain, and some to end.
GRACE = 25


@cache
def secret_names() -> frozenset[str]:
    """The secrets that `make secrets` makes."""
    made = subprocess.run(
        [sys.executable, ROOT / "infra/secrets/generate.py", "--names"], capture_output=True, text=True, check=True
    )
    return frozenset(made.stdout.split())


@cache
def pinned_images() -> frozenset[str]:
    """The images of Compose."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return frozenset(service["image"] for service in compose.values())


def service_of(image: str) -> str | None:
    """Which of our six services an image is of."""
    name = image.rpartition(":")[0].rpartition("readmit/")[2]
    return name if name in SERVICES else None


def names_are_unique_and_in_the_namespace(documents: Documents) -> list[str]:
    problems = []
    seen = set()
    for document in documents:
        key = (document["kind"], document["metadata"]["name"])
        if key in seen:
            problems.append(f"{key} stands twice")
        seen.add(key)
        if document["kind"] != "Namespace" and document["metadata"].get("namespace") != "mlops-project":
            problems.append(f"{key} is not in mlops-project")
    return problems


def selectors_match_pods(documents: Documents) -> list[str]:
    problems = []
    for workload in workloads(documents):
        selector = workload.document["spec"].get("selector")
        if selector is not None and not selects(selector, workload.labels):
            problems.append(f"{workload} selects other pods than its own")
        others = [other.name for other in workloads(documents) if other.name != workload.name]
        if selector is not None:
            problems += [
                f"{workload} selects the pods of {other}"
                for other in workloads(documents)
                if other.name in others and selects(selector, other.labels)
            ]
        if "app.kubernetes.io/name" not in workload.labels:
            problems.append(f"{workload} has pods without a name")
    for name, service in named(documents, "Service").items():
        if "selector" not in service["spec"] or not behind(service, documents):
            problems.append(f"Service/{name} leads to no pod")
    for name, budget in named(documents, "PodDisruptionBudget").items():
        if not [w for w in workloads(documents) if selects(budget["spec"]["selector"], w.labels)]:
            problems.append(f"PodDisruptionBudget/{name} is about no pod")
    return problems


def ports_of_services_are_declared(documents: Documents) -> list[str]:
    problems = []
    for name, service in named(documents, "Service").items():
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            problems += [
                f"Service/{name}: {workload} has no port {target}"
                for workload in behind(service, documents)
                if container_port(target, workload) is None
            ]
    for name, document in named(documents, "StatefulSet").items():
        if document["spec"]["serviceName"] not in named(documents, "Service"):
            problems.append(f"StatefulSet/{name} names Service {document['spec']['serviceName']}, which is not there")
    for workload in workloads(documents):
        for container in workload.containers:
            declared = {value for port in container.get("ports", []) for value in port.values()}
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = container.get(kind, {})
                for how in ("httpGet", "tcpSocket"):
                    if how in probe and probe[how]["port"] not in declared:
                        problems.append(f"{workload}: {kind} asks port {probe[how]['port']}")
    return problems


def config_maps_exist(documents: Documents) -> list[str]:
    there = named(documents, "ConfigMap")
    problems = []
    for workload, name, key in references(documents, "ConfigMap"):
        if name not in there:
            problems.append(f"{workload}: no ConfigMap {name}")
        elif key is not None and key not in {**there[name].get("data", {}), **there[name].get("binaryData", {})}:
            problems.append(f"{workload}: ConfigMap {name} has no {key}")
    used = {name for _, name, _ in references(documents, "ConfigMap")}
    return problems + [f"ConfigMap {name} is used by nobody" for name in sorted(set(there) - used)]


def secrets_are_made_and_mounted_one_by_one(documents: Documents) -> list[str]:
    problems = [f"Secret {name} stands in the manifests" for name in named(documents, "Secret")]
    for workload, name, key in references(documents, "Secret"):
        if name != "readmit-secrets":
            problems.append(f"{workload}: Secret {name}")
        if key is not None and key not in secret_names():
            problems.append(f"{workload}: no secret {key}")
    for workload in workloads(documents):
        problems += [
            f"{workload}: volume {volume['name']} holds everybody's secrets"
            for volume in workload.volumes
            if "secret" in volume and not volume["secret"].get("items")
        ]
        problems += [
            f"{workload}: {variable['name']} shows a secret in the environment"
            for container in workload.containers
            for variable in container.get("env", [])
            if "secretKeyRef" in variable.get("valueFrom", {})
        ]
    return problems


def volumes_exist(documents: Documents) -> list[str]:
    claims = named(documents, "PersistentVolumeClaim")
    problems = []
    for workload in workloads(documents):
        templates = workload.document["spec"].get("volumeClaimTemplates", [])
        there = {volume["name"] for volume in workload.volumes} | {claim["metadata"]["name"] for claim in templates}
        used = set()
        for container in workload.containers:
            for mount in container.get("volumeMounts", []):
                used.add(mount["name"])
                if mount["name"] not in there:
                    problems.append(f"{workload}: no volume {mount['name']}")
        problems += [f"{workload}: volume {name} is mounted nowhere" for name in sorted(there - used)]
        for volume in workload.volumes:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in claims:
                problems.append(f"{workload}: no PersistentVolumeClaim {claim}")
            if "hostPath" in volume:
                problems.append(f"{workload}: volume {volume['name']} is a folder of the node")
    return problems


def settings_are_known_and_complete(documents: Documents) -> list[str]:
    problems = []
    found = set()
    for workload in workloads(documents):
        for container in workload.containers:
            service = service_of(container["image"])
            if service is None:
                continue
            found.add(service)
            settings = importlib.import_module(f"readmit_{service}.settings").Settings
            known = dict(variables(settings, f"{service.upper()}_"))
            given = {variable["name"] for variable in container.get("env", [])}
            # What is no variable in a file is a file that a setting may name.
            given |= {
                name
                for path in secret_files(workload, container)
                if not (name := path.rpartition("/")[2]).endswith(".json")
            }
            named_files = {
                str(variable.get("value"))
                for variable in container.get("env", [])
                if str(variable.get("value")).startswith("/run/secrets/")
            }
            problems += [
                f"{workload}: {path} is mounted nowhere"
                for path in sorted(named_files - set(secret_files(workload, container)))
            ]
            if container.get("envFrom"):
                problems.append(f"{workload}: envFrom hides what is set")
            problems += [f"{workload}: {service} knows no {name}" for name in sorted(given - set(known))]
            required = {name for name, must in known.items() if must}
            problems += [f"{workload}: {name} is not given" for name in sorted(required - given)]
            problems += [
                f"{workload}: {path} is not where {service} looks for secrets"
                for path in secret_files(workload, container)
                if not path.startswith("/run/secrets/")
            ]
    return problems + [f"nobody runs {service}" for service in SERVICES if service not in found]


def targets_of_scaling_exist(documents: Documents) -> list[str]:
    problems = []
    scaled = [
        (document["kind"], document["metadata"]["name"], target)
        for document in of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject")
        for target in [document["spec"]["scaleTargetRef"]]
    ]
    targets = []
    for kind, name, target in scaled:
        wanted = (target.get("kind", "Deployment"), target["name"])
        targets.append(wanted)
        there = {(w.kind, w.name): w for w in workloads(documents)}
        if wanted not in there:
            problems.append(f"{kind}/{name} scales {wanted}, which is not there")
        elif "replicas" in there[wanted].document["spec"]:
            problems.append(f"{kind}/{name}: {wanted} fixes its replicas, and each apply would undo the scaling")
    problems += [f"{target} is scaled by two" for target in set(targets) if targets.count(target) > 1]
    return problems


def containers_are_restricted(documents: Documents) -> list[str]:
    problems = []
    for workload in workloads(documents):
        pod = workload.pod
        if pod.get("automountServiceAccountToken") is not False:
            problems.append(f"{workload} is given a token of the cluster")
        if pod.get("enableServiceLinks") is not False:
            problems.append(f"{workload} is given variables of every Service")
        problems += [f"{workload}: {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
        for container in workload.containers:
            context = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
            wrong = {
                "runAsNonRoot": context.get("runAsNonRoot") is not True,
                "runAsUser": not isinstance(context.get("runAsUser"), int) or context.get("runAsUser") == 0,
                "seccompProfile": context.get("seccompProfile", {}).get("type") != "RuntimeDefault",
                "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is not False,
                "readOnlyRootFilesystem": context.get("readOnlyRootFilesystem") is not True,
                "capabilities.drop": context.get("capabilities", {}).get("drop") != ["ALL"],
                "capabilities.add": bool(context.get("capabilities", {}).get("add")),
                # Of all capabilities, the restricted profile lets this one be added.
                "another capability": context.get("capabilities", {}).get("add", []) not in ([], ["NET_BIND_SERVICE"]),
                "privileged": bool(context.get("privileged")),
            }
            problems += [
                f"{workload}, {container['name']}: {key}"
                for key, bad in wrong.items()
                if bad and (container["name"], key) not in LESS_RESTRICTED
            ]
    return problems


def containers_have_requests_and_limits(documents: Documents) -> list[str]:
    return [
        f"{workload}, {container['name']}: no {what} of {resource}"
        for workload in workloads(documents)
        for container in workload.containers
        for what in ("requests", "limits")
        for resource in ("cpu", "memory")
        if resource not in container.get("resources", {}).get(what, {})
    ]


def services_are_probed_and_may_drain(documents: Documents) -> list[str]:
    problems = []
    for workload in workloads(documents):
        for container in workload.pod["containers"]:
            if service_of(container["image"]) is None:
                continue
            for kind, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
                if container.get(kind, {}).get("httpGet", {}).get("path") != path:
                    problems.append(f"{workload}: {kind} does not ask {path}")
            if workload.pod.get("terminationGracePeriodSeconds", 30) < GRACE:
                problems.append(f"{workload}: too little time to drain")
    return problems


def node_ports_are_the_table(documents: Documents) -> list[str]:
    problems = []
    found: dict[int, tuple[str, int]] = {}
    for name, service in named(documents, "Service").items():
        for port in service["spec"]["ports"]:
            node_port = port.get("nodePort")
            if service["spec"].get("type") == "NodePort" and node_port is None:
                problems.append(f"Service/{name}: the cluster would choose a port")
            if node_port is None:
                continue
            if node_port in found:
                problems.append(f"{node_port} is used twice")
            found[node_port] = (name, port["port"])
    problems += [
        f"{port} is {of}, not {NODE_PORTS.get(port)}" for port, of in found.items() if NODE_PORTS.get(port) != of
    ]
    there = named(documents, "Service")
    return problems + [
        f"{port} of {name} is missing" for port, (name, _) in NODE_PORTS.items() if name in there and port not in found
    ]


def images_are_those_of_compose(documents: Documents) -> list[str]:
    return [
        f"{workload}: {container['image']}"
        for workload in workloads(documents)
        for container in workload.containers
        if container["image"] not in pinned_images()
    ]


def images_of_ours_are_never_fetched(documents: Documents) -> list[str]:
    """Whoever owns `readmit` on a public registry is somebody else."""
    return [
        f"{workload}: {container['image']} would be fetched"
        for workload in workloads(documents)
        for container in workload.containers
        if container["image"].startswith("readmit/") and container.get("imagePullPolicy") != "Never"
    ]


def role_of(workload: Workload) -> str | None:
    """The machine of the picture that a workload belongs to."""
    for role, names in ROLES.items():
        if workload.name in names:
            return role
    first = workload.name.partition("-")[0]
    return next((role for role, names in ROLES.items() if first in names), None)


def pods_are_on_their_machine(documents: Documents) -> list[str]:
    """For three-vms alone."""
    return [
        f"{workload} is on {workload.pod.get('nodeSelector')}, not on {role_of(workload)}"
        for workload in workloads(documents)
        if workload.pod.get("nodeSelector") != {"readmit.io/role": role_of(workload)}
    ]
