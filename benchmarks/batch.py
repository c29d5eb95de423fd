"""How fast `POST /predict/batch` turns bytes into risks: its rows/s against the model library's own on encoded rows.

The pod is one process on one core; the library's `predict` runs on the same core in turns with it, on the matrix that
the rows are encoded to, with one thread. The client, on another core, sends everything before it reads: the hardest
case for memory, which is reported too. Every risk is held against the library's.

    python benchmarks/batch.py [--rows 100000] [--rounds 5] [--trees 200 | --bundle DIR]
        [--source diabetes-130-us-hospitals.zip]
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from serving_load import cached_pod, cores, encounters, load_options, server, the_bundle

from readmit_bundle import load_model
from readmit_chassis.testing import free_port
from readmit_features.cleaning import clean_encounter

FORMS = {"CSV": "text/csv", "NDJSON": "application/x-ndjson", "JSON": "application/json"}
LIBRARY = "library, encoded rows"


def write_bodies(folder: Path, rows: list[dict[str, str | int]]) -> dict[str, Path]:
    """The same rows in each form."""
    names = list({name: None for row in rows for name in row})
    table = io.StringIO()
    writer = csv.DictWriter(table, names, restval="?")
    writer.writeheader()
    writer.writerows(rows)
    lines = [json.dumps(row) for row in rows]
    texts = {"CSV": table.getvalue(), "NDJSON": "\n".join(lines), "JSON": f"[{','.join(lines)}]"}
    paths = {name: folder / name for name in FORMS}
    for name, path in paths.items():
        path.write_text(texts[name])
    return paths


def post(address: str, path: Path, media_type: str) -> tuple[float, bytes]:
    """Seconds from the first byte sent to the last one read, and the answer, which is read once all is sent."""
    parts = urllib.parse.urlsplit(address)
    started = time.perf_counter()
    with socket.create_connection((parts.hostname, parts.port)) as connection, path.open("rb") as file:
        connection.sendall(
            f"POST /predict/batch HTTP/1.1\r\nHost: pod\r\nContent-Type: {media_type}\r\nAccept: text/csv\r\n"
            f"Content-Length: {path.stat().st_size}\r\nConnection: close\r\n\r\n".encode()
        )
        connection.sendfile(file)
        answer = bytearray()
        while piece := connection.recv(1 << 20):
            answer += piece
    seconds = time.perf_counter() - started
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"the pod refused the batch: {head!r} {body[:500]!r}")
    return seconds, _unchunked(body)


def _unchunked(body: bytes) -> bytes:
    pieces, at = [], 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        if size == 0:
            return b"".join(pieces)
        pieces.append(body[end + 2 : end + 2 + size])
        at = end + 4 + size


def risks_of(answer: bytes) -> list[float]:
    """In the order of the rows."""
    return [float(line["risk"]) for line in csv.DictReader(io.StringIO(answer.decode(), newline=""))]


def library_seconds(folder: Path) -> float:
    """One `predict` of all encoded rows, in a process of its own on the pod's core."""
    code = (
        "import sys, time, lightgbm, numpy; b = lightgbm.Booster(model_file=sys.argv[1]); "
        "x = numpy.load(sys.argv[2]); b.predict(x[:1000], num_threads=1); t = time.perf_counter(); "
        "b.predict(x, raw_score=True, num_threads=1); print(time.perf_counter() - t)"
    )
    command = ["taskset", "-c", str(cores()[-1]), sys.executable, "-c", code, str(folder / "model.txt")]
    said = subprocess.run([*command, str(folder / "rows.npy")], check=True, capture_output=True, text=True)
    return float(said.stdout)


@contextmanager
def watched(address: str, seen_mib: list[float]) -> Iterator[None]:
    """Notes what the pod says of its memory, ten times a second."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:  # noqa: S310  our own address
                found = re.search(r"^process_resident_memory_bytes (\S+)", answer.read().decode(), re.MULTILINE)
            if found:
                seen_mib.append(float(found[1]) / 2**20)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()


def _head(folder: Path, body: Path) -> Path:
    """A body of the first 1,000 lines."""
    head = folder / "head"
    with body.open() as lines:
        head.write_text("".join(line for _, line in zip(range(1_000), lines, strict=False)))
    return head


def main() -> None:
    """Print the table, the ratios and the memory."""
    parser = load_options(__doc__, rounds=5)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="readmit-batch-") as name:
        folder, bundle, port = Path(name), the_bundle(options), free_port()
        some = encounters(options.source, options.rows)
        rows = (some * (options.rows // len(some) + 1))[: options.rows]
        bodies = write_bodies(folder, rows)
        model = load_model(bundle)
        matrix = np.array([model.encoder.encode(clean_encounter(row).values) for row in rows])
        expected = model.score_matrix(matrix)
        np.save(folder / "rows.npy", matrix)
        (folder / "model.txt").write_bytes(bundle.files["model.txt"])
        environment = cached_pod(folder, bundle, port)
        seconds: dict[str, list[float]] = {name: [] for name in [LIBRARY, *FORMS]}
        os.sched_setaffinity(0, {cores()[0]})
        with server([sys.executable, "-m", "readmit_inference"], environment, port) as address:
            post(address, _head(folder, bodies["NDJSON"]), FORMS["NDJSON"])
            with watched(address, small := []):
                post(address, _head(folder, bodies["NDJSON"]), FORMS["NDJSON"])
                time.sleep(0.5)
            for _ in range(options.rounds):
                seconds[LIBRARY].append(library_seconds(folder))
                for form, media_type in FORMS.items():
                    took, answer = post(address, bodies[form], media_type)
                    seconds[form].append(took)
                    apart = float(np.abs(np.array(risks_of(answer)) - expected).max())
                    if apart > 1e-9:
                        raise SystemExit(f"{form}: a risk is {apart} from the library's")
            with watched(address, large := []):
                for form, media_type in FORMS.items():
                    post(address, bodies[form], media_type)
        sizes = {form: path.stat().st_size / 2**20 for form, path in bodies.items()}
    print(f"| {options.rows:,} rows | MiB sent | rows/s | of the library's |\n|---|---|---|---|")
    for form, took in seconds.items():
        ratios = [library / one for library, one in zip(seconds[LIBRARY], took, strict=True)]
        told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        size = f"{sizes[form]:.0f}" if form in sizes else ""
        print(f"| {form} | {size} | {options.rows / statistics.median(took):,.0f} | {told} |")
    print(f"\nThe pod's memory: {max(small):.0f} MiB with 1,000 rows, {max(large):.0f} MiB with {options.rows:,}.")


if __name__ == "__main__":
    main()
