"""HAProxy with Compose's configuration in front of stand-ins for pods: who is asked, and that no request is lost."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from readmit_chassis.testing import free_port, wait_for_port

from .processes import ROOT, needs, running, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


class Pod(ThreadingHTTPServer):
    """Stands for an inference pod, on its own loopback address."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str, port: int) -> None:
        self.ready, self.mute, self.status = True, False, 200
        self.asked = 0
        self._counting = threading.Lock()
        super().__init__((address, port), PodHandler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def count(self) -> None:
        with self._counting:
            self.asked += 1

    def leave(self) -> None:
        """Stop taking connections; those that wait to be taken are reset."""
        if self.thread.is_alive():
            self.shutdown()
            self.thread.join()
            self.server_close()


class PodHandler(BaseHTTPRequestHandler):
    server: Pod
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with suppress(ConnectionError):  # a health check hangs up once it has the status
            self.answer(200 if self.server.ready or self.path == "/livez" else 503, b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.count()
        if self.server.mute:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.answer(self.server.status if self.server.ready else 503, self.server.server_address[0].encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass


class NameServer:
    """Answers every question with the addresses that it was given."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            if not query:
                return
            end = query.index(b"\0", 12) + 5
            is_a = query[end - 4 : end - 2] == b"\0\x01"
            found = list(self.addresses) if is_a else []
            header = query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(found), 0, 0)
            answers = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(a) for a in found)
            self._socket.sendto(header + query[12:end] + answers, client)

    def close(self) -> None:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


class Balancer:
    """HAProxy with Compose's configuration on other addresses, its name server, and pods on 127.0.0.x."""

    def __init__(self, url: str, pod_port: int, names: NameServer, cleanup: ExitStack) -> None:
        self.url, self.names = url, names
        self._pod_port, self._cleanup = pod_port, cleanup
        self._client = cleanup.enter_context(httpx.Client(base_url=url, trust_env=False))

    def pod(self, number: int, *, ready: bool = True) -> Pod:
        pod = Pod(f"127.0.0.{number}", self._pod_port)
        pod.ready = ready
        self._cleanup.callback(pod.leave)
        self.names.addresses.append(f"127.0.0.{number}")
        return pod

    def predict(self) -> httpx.Response:
        return self._client.post("/predict", json={"age": "[50-60)"})

    def wait_for(self, *pods: Pod) -> None:
        """Until answers come from exactly these."""
        wanted = {pod.server_address[0] for pod in pods}
        wait_until(lambda: {self.predict().text for _ in range(6)} == wanted, f"answers from {wanted}")


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[Balancer]:
    haproxy = needs("haproxy", required_as="haproxy")
    port, pod_port = free_port(), free_port()
    configuration = (ROOT / "infra/haproxy/haproxy.cfg").read_text()
    with ExitStack() as cleanup:
        names = NameServer()
        cleanup.callback(names.close)
        for ours, theirs in (("127.0.0.11:53", f"127.0.0.1:{names.port}"), ("bind :30601", f"bind 127.0.0.1:{port}"),
                             ("inference-pods:30601", f"inference-pods:{pod_port}")):  # fmt: skip
            assert ours in configuration
            configuration = configuration.replace(ours, theirs)
        (tmp_path / "haproxy.cfg").write_text(configuration)
        cleanup.enter_context(running([haproxy, "-db", "-f", tmp_path / "haproxy.cfg"], tmp_path / "haproxy.log"))
        wait_for_port(port)
        yield Balancer(f"http://127.0.0.1:{port}", pod_port, names, cleanup)


def test_requests_go_to_every_pod_that_is_ready(balancer: Balancer) -> None:
    first, second, third = balancer.pod(1), balancer.pod(2), balancer.pod(3, ready=False)
    balancer.wait_for(first, second)
    asked_before = third.asked
    third.ready = True
    balancer.wait_for(first, second, third)
    first.ready = False
    balancer.wait_for(second, third)
    assert asked_before <= first.asked + second.asked


def test_no_request_is_lost_while_pods_go_and_come(balancer: Balancer) -> None:
    first, second = balancer.pod(1), balancer.pod(2)
    balancer.wait_for(first, second)
    statuses: list[int] = []
    stop = threading.Event()

    def client() -> None:
        with httpx.Client(base_url=balancer.url, trust_env=False, timeout=10) as mine:
            while not stop.is_set():
                statuses.append(mine.post("/predict", json={"age": "[50-60)"}).status_code)

    def passed(more: int) -> None:
        goal = len(statuses) + more
        wait_until(lambda: len(statuses) >= goal, "answers")

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client) for _ in range(8)]
        passed(300)
        first.leave()
        passed(300)
        asked = second.asked
        back = balancer.pod(1)
        wait_until(lambda: back.asked > 0, "traffic on the pod that came back")
        second.mute = True  # as when it is killed: it takes requests and never answers
        wait_until(lambda: second.asked > asked, "a request that a dying pod took with it")
        second.leave()
        passed(300)
        stop.set()
        for done in clients:
            done.result()
    assert set(statuses) == {200}


def test_what_a_pod_answers_is_the_answer_also_an_error_and_is_asked_for_once(balancer: Balancer) -> None:
    first, second = balancer.pod(1), balancer.pod(2)
    balancer.wait_for(first, second)
    first.status = second.status = 500
    before = first.asked + second.asked
    assert balancer.predict().status_code == 500
    assert first.asked + second.asked == before + 1


def test_before_the_first_model_the_pods_themselves_say_so_and_without_pods_the_balancer_does(
    balancer: Balancer,
) -> None:
    assert httpx.get(f"{balancer.url}/balancer/livez", trust_env=False).is_success
    wait_until(lambda: balancer.predict().status_code == 503, "refusal")
    nobody = balancer.predict()
    assert nobody.headers["content-type"] == "application/problem+json"
    assert nobody.json()["type"] == "urn:readmit:problem:no_pod"
    waiting = balancer.pod(1, ready=False)
    wait_until(lambda: balancer.predict().text == waiting.server_address[0], "the pod's own words")
    assert balancer.predict().status_code == 503
    waiting.ready = True
    wait_until(lambda: balancer.predict().status_code == 200, "prediction")
    assert json.loads(httpx.get(f"{balancer.url}/health", trust_env=False).text) == {}
