"""Rendered Kubernetes documents, read: whose pods, which ports, what is selected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

Document = dict[str, Any]
Documents = list[Document]

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")


class Workload(NamedTuple):
    """What makes pods, and the template of these."""

    kind: str
    name: str
    document: Document
    template: Document

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.template.get("metadata", {}).get("labels", {}))

    @property
    def pod(self) -> Document:
        return dict(self.template["spec"])

    @property
    def containers(self) -> list[Document]:
        return [*self.pod["containers"], *self.pod.get("initContainers", [])]

    @property
    def volumes(self) -> list[Document]:
        return list(self.pod.get("volumes", []))

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def of_kind(documents: Documents, *kinds: str) -> Documents:
    return [document for document in documents if document["kind"] in kinds]


def named(documents: Documents, *kinds: str) -> dict[str, Document]:
    return {document["metadata"]["name"]: document for document in of_kind(documents, *kinds)}


def workloads(documents: Documents) -> list[Workload]:
    found = []
    for document in of_kind(documents, *WORKLOADS):
        spec = document["spec"]
        template = spec["jobTemplate"]["spec"]["template"] if document["kind"] == "CronJob" else spec["template"]
        found.append(Workload(document["kind"], document["metadata"]["name"], document, template))
    return found


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a label selector, as of a Deployment or a policy, matches these labels. An empty one matches all."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions", []):
        value = labels.get(term["key"])
        meets = {
            "In": value in term.get("values", []),
            "NotIn": value not in term.get("values", []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not meets[term["operator"]]:
            return False
    return True


def behind(service: Document, documents: Documents) -> list[Workload]:
    """The workloads whose pods a Service leads to."""
    selector = {"matchLabels": service["spec"].get("selector", {})}
    return [workload for workload in workloads(documents) if selects(selector, workload.labels)]


def container_port(target: int | str, workload: Workload) -> int | None:
    """Number of the port that a pod declares under this name or number."""
    for container in workload.pod["containers"]:
        for port in container.get("ports", []):
            if target in {port["containerPort"], port.get("name")}:
                return int(port["containerPort"])
    return None


def texts(value: Any) -> Iterator[str]:
    """Every text in a piece of a document."""
    match value:
        case dict():
            for key, inner in value.items():
                yield from (str(key), *texts(inner))
        case list():
            for inner in value:
                yield from texts(inner)
        case _:
            yield str(value)


def references(documents: Documents, kind: str) -> Iterator[tuple[Workload, str, str | None]]:
    """Each use of a ConfigMap or Secret by a pod: the workload, the name, and the key where one is named."""
    volume_kind, name_key = {"ConfigMap": ("configMap", "name"), "Secret": ("secret", "secretName")}[kind]
    for workload in workloads(documents):
        mounted: dict[str, str] = {}
        for volume in workload.volumes:
            sources = [(volume.get(volume_kind), name_key)]
            sources += [(source.get(volume_kind), "name") for source in volume.get("projected", {}).get("sources", [])]
            for source, key in sources:
                if source is None:
                    continue
                mounted[volume["name"]] = source[key]
                yield workload, source[key], None
                for item in source.get("items", []):
                    yield workload, source[key], item["key"]
        for container in workload.containers:
            for variable in container.get("env", []):
                of_key = variable.get("valueFrom", {}).get(f"{volume_kind}KeyRef")
                if of_key is not None:
                    yield workload, of_key["name"], of_key["key"]
            for source in container.get("envFrom", []):
                if f"{volume_kind}Ref" in source:
                    yield workload, source[f"{volume_kind}Ref"]["name"], None


def secret_files(workload: Workload, container: Document) -> dict[str, str]:
    """Path in the container of each secret's file, and the secret's key."""
    files = {}
    for mount in container.get("volumeMounts", []):
        for volume in workload.volumes:
            if volume["name"] != mount["name"]:
                continue
            for item in volume.get("secret", {}).get("items", []):
                if mount.get("subPath") in {None, item["path"]}:
                    path = mount["mountPath"] if "subPath" in mount else f"{mount['mountPath']}/{item['path']}"
                    files[path] = item["key"]
    return files
