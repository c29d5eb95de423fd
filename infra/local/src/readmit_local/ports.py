"""Which part listens where, on 127.0.0.1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from socket import AF_INET, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket

from readmit_local.errors import LocalError

HOST = "127.0.0.1"

#: `kafka_internal` is the controller of Apache Kafka, or the object store's gate of the embedded broker.
DEFAULT_PORTS: Mapping[str, int] = {
    "inference": 30601,
    "ui": 30602,
    "ingestor": 30611,
    "trainer": 30612,
    "promoter": 30613,
    "monitor": 30614,
    "mlflow": 30500,
    "s3": 30382,
    "postgres": 30432,
    "kafka": 30092,
    "kafka_internal": 30093,
    "prometheus": 31090,
    "alertmanager": 31093,
}
#: Parts that only `--observe` starts.
OBSERVATION = ("prometheus", "alertmanager")


def pod_names(pods: int) -> tuple[str, ...]:
    """Names of the inference pods: `inference`, `inference-2`, …"""
    return ("inference", *(f"inference-{k}" for k in range(2, pods + 1)))


def part_names(pods: int = 1) -> tuple[str, ...]:
    """Everything that gets a port."""
    return (*DEFAULT_PORTS, *pod_names(pods)[1:])


def parse_overrides(given: Iterable[str], pods: int = 1) -> dict[str, int]:
    """`NAME=N` texts as a mapping. Raises ValueError for a part that does not exist, or no port number."""
    overrides = {}
    for text in given:
        name, _, number = text.partition("=")
        if name not in part_names(pods):
            raise ValueError(f"--port {text}: no part is called {name!r}; there are {', '.join(part_names(pods))}")
        if not number.isdecimal() or not 0 < int(number) < 65536:
            raise ValueError(f"--port {text}: write NAME=N, e.g. inference=8080")
        overrides[name] = int(number)
    return overrides


def choose_ports(mode: str, overrides: Mapping[str, int], pods: int = 1, *, observe: bool = False) -> dict[str, int]:
    """A port for every part that will be started, all checked to be free. Only the first pod has a default port.

    Raises `LocalError` for a port that is taken.
    """
    names = [name for name in part_names(pods) if observe or name not in OBSERVATION]
    wanted = {name: port for name, port in DEFAULT_PORTS.items() if mode == "default" and name in names}
    wanted |= {name: port for name, port in overrides.items() if name in names}
    check_free(wanted)
    missing = [name for name in names if name not in wanted]
    return wanted | dict(zip(missing, free_ports(len(missing), avoid=wanted.values()), strict=True))


def check_free(wanted: Mapping[str, int]) -> None:
    """Raise `LocalError` that names the first part whose port is taken, or shared with another part."""
    owner: dict[int, str] = {}
    for name, port in wanted.items():
        if port in owner:
            raise LocalError(f"port {port} is given to both {owner[port]} and {name}; choose with --port {name}=N")
        owner[port] = name
        with socket(AF_INET, SOCK_STREAM) as probe:
            probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)  # as servers do: a closing connection is no listener
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise LocalError(
                    f"port {port} for {name} is not free ({error.strerror}); "
                    f"choose another with --port {name}=N, or any with --ports free"
                ) from error


def free_ports(count: int, avoid: Iterable[int] = ()) -> list[int]:
    """Ports that nobody listens on now, all different."""
    taken = set(avoid)
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            probe = held.enter_context(socket(AF_INET, SOCK_STREAM))
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
            if port not in taken:
                found.append(port)
    return found
