"""Who may talk to whom in rendered Kubernetes documents, against who has an address of whom; pure checks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .kubernetes_documents import (
    Document,
    Documents,
    Workload,
    behind,
    container_port,
    named,
    of_kind,
    references,
    selects,
    texts,
    workloads,
)

#: A host's name, after nothing or what stands before one in a URL, a list or an option; then its port, if any.
ADDRESS = re.compile(
    r"(?:^|//|[@\"'\s=,\[])([a-z][a-z0-9-]+)(?:\.mlops-project(?:\.svc(?:\.cluster\.local)?)?)?(?::(\d+))?(?=$|[/\"'\s,\]:])"
)
#: Files that name hosts and ports apart, and how.
APART = re.compile(r'"Host":\s*"([a-z0-9-]+)",\s*"Port":\s*(\d+)|names:\s*\[?\s*-?\s*"?([a-z0-9-]+-pods)')
#: Arrows that no manifest names an address of: a program learns it from another at work.
LEARNT = {
    ("airflow-api-server", "airflow-scheduler", 8793),  # logs of tasks, of the host that ran them
    ("locust-worker", "inference", 30601),  # what to load, from the master
}


class Arrow(NamedTuple):
    client: str
    server: str
    port: int

    def __str__(self) -> str:
        return f"{self.client} → {self.server}:{self.port}"


def told(workload: Workload, documents: Documents) -> Iterator[tuple[str, int | None]]:
    """The addresses in a workload's environment and arguments, and those in its configuration files."""
    services = named(documents, "Service")
    maps = named(documents, "ConfigMap")
    direct = [
        text
        for container in workload.containers
        for text in (
            *(variable.get("value", "") for variable in container.get("env", []) if "DATABASE" not in variable["name"]),
            *texts([container.get("command", []), container.get("args", [])]),
        )
    ]
    for text in direct:
        for host, port in ADDRESS.findall(text):
            # In a script, a word alone is no address.
            if host in services and (port or "\n" not in text):
                yield host, int(port) if port else None
    for name in {name for owner, name, _ in references(documents, "ConfigMap") if owner == workload}:
        for text in maps.get(name, {}).get("data", {}).values():
            for host, port in ADDRESS.findall(text):
                if host in services and port:
                    yield host, int(port)
            for host, port, pods in APART.findall(text):
                if (host or pods) in services:
                    yield host or pods, int(port) if port else None


def wanted(documents: Documents) -> tuple[set[Arrow], list[str]]:
    """Each arrow that an address asks for, in ports of pods; and the addresses that lead nowhere."""
    arrows = set()
    problems = []
    services = named(documents, "Service")
    for workload in workloads(documents):
        for host, port in told(workload, documents):
            ports = [entry for entry in services[host]["spec"]["ports"] if port in {None, entry["port"]}]
            if not ports:
                problems.append(f"{workload} asks for {host}:{port}, which Service/{host} does not have")
            for server in behind(services[host], documents):
                # Who has one port of two in mind, and says none, is taken to mean the first.
                target = container_port(ports[0].get("targetPort", ports[0]["port"]), server) if ports else None
                if target is not None and server.name != workload.name:
                    arrows.add(Arrow(workload.name, server.name, target))
    return arrows, problems


def _peers(rules: list[Document], side: str, labels: dict[str, str], port: int, server: Workload) -> Iterator[Document]:
    """The peers of rules that let pods with these labels through on a port of the server's."""
    for rule in rules:
        ports = rule.get("ports")
        numbers = [
            container_port(entry["port"], server) if isinstance(entry["port"], str) else entry["port"]
            for entry in ports or []
            if entry.get("protocol", "TCP") == "TCP"
        ]
        if ports is not None and port not in numbers:
            continue
        for peer in rule.get(side, [{"podSelector": {}}]):
            if "podSelector" in peer and "namespaceSelector" not in peer and selects(peer["podSelector"], labels):
                yield peer


def permits(documents: Documents, client: Workload, server: Workload, port: int) -> tuple[bool, bool]:
    """Whether policies let the client out to the server's port, and whether they let it in there."""
    out = into = False
    for policy in of_kind(documents, "NetworkPolicy"):
        spec = policy["spec"]
        if selects(spec["podSelector"], client.labels):
            out |= any(_peers(spec.get("egress", []), "to", server.labels, port, server))
        if selects(spec["podSelector"], server.labels):
            into |= any(_peers(spec.get("ingress", []), "from", client.labels, port, server))
    return out, into


def every_address_is_one_that_policies_let_through(documents: Documents) -> list[str]:
    arrows, problems = wanted(documents)
    there = {workload.name: workload for workload in workloads(documents)}
    for arrow in sorted(arrows):
        out, into = permits(documents, there[arrow.client], there[arrow.server], arrow.port)
        if not out:
            problems.append(f"{arrow}: {arrow.client} is not let out")
        if not into:
            problems.append(f"{arrow}: {arrow.server} does not let it in")
    return problems


def nothing_is_let_through_that_nobody_asks_for(documents: Documents) -> list[str]:
    arrows, _ = wanted(documents)
    declared = [
        (server, int(port["containerPort"]))
        for server in workloads(documents)
        for container in server.pod["containers"]
        for port in container.get("ports", [])
    ]
    return [
        f"{Arrow(client.name, server.name, port)} is open, and {client.name} has no such address"
        for client in workloads(documents)
        for server, port in declared
        if client.name != server.name
        and any(permits(documents, client, server, port))
        and (client.name, server.name, port) not in arrows | LEARNT
    ]


def all_is_denied_first(documents: Documents) -> list[str]:
    for policy in of_kind(documents, "NetworkPolicy"):
        spec = policy["spec"]
        if spec["podSelector"] == {} and set(spec["policyTypes"]) == {"Ingress", "Egress"}:
            return [f"{policy['metadata']['name']} lets something through"] if {"ingress", "egress"} & set(spec) else []
    return ["no policy denies all"]


def policies_are_about_pods_that_exist(documents: Documents) -> list[str]:
    problems = []
    labels = [workload.labels for workload in workloads(documents)]
    for name, policy in named(documents, "NetworkPolicy").items():
        spec = policy["spec"]
        types = {kind.lower() for kind in spec["policyTypes"]}
        problems += [f"{name}: {kind} without its policyType" for kind in {"ingress", "egress"} & set(spec) - types]
        selectors = [spec["podSelector"]]
        for side, key in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(side, []):
                if not rule.get(key):
                    problems.append(f"{name}: {side} for all the world")
                selectors += [
                    peer["podSelector"]
                    for peer in rule.get(key, [])
                    if "podSelector" in peer and "namespaceSelector" not in peer
                ]
        for selector in selectors:
            if not any(selects(selector, pod) for pod in labels):
                problems.append(f"{name}: no pod is {selector}")
            # A list of names must not hide one that is misspelt.
            for term in selector.get("matchExpressions", []):
                there = {pod.get(term["key"]) for pod in labels}
                problems += [f"{name}: no pod is {value}" for value in term.get("values", []) if value not in there]
    return problems


def names_can_be_looked_up_and_node_ports_reached(documents: Documents) -> list[str]:
    policies = [policy["spec"] for policy in of_kind(documents, "NetworkPolicy")]
    problems = [
        f"{workload} can't look a name up"
        for workload in workloads(documents)
        if not [
            rule
            for spec in policies
            if selects(spec["podSelector"], workload.labels)
            for rule in spec.get("egress", [])
            if {"port": 53, "protocol": "UDP"} in rule.get("ports", []) and "namespaceSelector" in rule["to"][0]
        ]
    ]
    opened = set()
    for service in of_kind(documents, "Service"):
        if service["spec"].get("type") != "NodePort":
            continue
        for server in behind(service, documents):
            opened |= {
                (server.name, container_port(port.get("targetPort", port["port"]), server))
                for port in service["spec"]["ports"]
            }
    let_in = {
        (server.name, port["port"])
        for server in workloads(documents)
        for spec in policies
        if selects(spec["podSelector"], server.labels)
        for rule in spec.get("ingress", [])
        if {"ipBlock": {"cidr": "0.0.0.0/0"}} in rule["from"]
        for port in rule["ports"]
    }
    problems += [f"{name}:{port} has a NodePort that nobody gets through" for name, port in sorted(opened - let_in)]
    return problems + [f"{name}:{port} is open and has no NodePort" for name, port in sorted(let_in - opened)]
