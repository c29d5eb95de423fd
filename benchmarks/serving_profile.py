"""Where the time of a saturated pod goes: py-spy samples it while `wrk` loads it; a table by part, with the log on.

A sample counts for the innermost frame that belongs to a part, so what C code takes (LightGBM, orjson, the socket) is
its caller's. Sampling takes time of its own (`requests/s` beside those of `serving_ceiling.py`): only shares count.

    python benchmarks/serving_profile.py [--seconds 10] [--connections 32] [--trees 200 | --bundle DIR]
        [--source diabetes-130-us-hospitals.zip] [--keep stacks.txt]
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from prediction_log import pod_environment
from serving_load import encounters_script, load, load_options, served, the_bundle

from readmit_chassis.kafka import create_topics
from readmit_chassis.s3 import MemoryStore
from readmit_chassis.testing import embedded_kafka, free_port
from readmit_contracts.topics import TOPICS
from readmit_inference.cache import BundleCache
from readmit_inference.testing import promote

#: What a frame's `function (file` begins or ends with, to the part that it is; the first that fits.
PARTS = {
    "(readmit_bundle/scorers.py": "the model",
    "(readmit_features/row.py": "encoding the row, and what is new in it",
    "(readmit_features/cleaning.py": "reading and checking the fields",
    "decode (readmit_inference/handlers.py": "parsing the JSON",
    "to_json (readmit_inference/domain.py": "writing the answer",
    "new_id (readmit_inference/domain.py": "its id",
    "(prometheus_client/": "metrics",
    "(readmit_inference/metrics.py": "metrics",
    "(readmit_inference/overload.py": "looking whether there is too much to do",
    "(readmit_inference/prediction_event.py": "the log: the event",
    "(readmit_inference/prediction_log.py": "the log: the buffer",
    "(readmit_inference/batch_publisher.py": "the log: packing and sending",
    "(aiokafka/": "the log: packing and sending",
    "(readmit_inference/": "calls between these",
    "(readmit_bundle/": "calls between these",
    "(readmit_chassis/connections.py": "HTTP: parsing, writing to the socket",
    "(uvicorn/": "HTTP: parsing, writing to the socket",
    "(asyncio/runners.py": "the event loop: polling, reading from sockets",
}
#: A second; no multiple of what timers do, which would then be seen always or never.
RATE = "467"
_LOOP = "(asyncio/runners.py"


def by_part(stacks: Iterable[str]) -> Counter[str]:
    """Samples of the event loop's thread by part. `stacks`: frames from the outermost on, then how often."""
    found: Counter[str] = Counter()
    for line in stacks:
        stack, _, samples = line.rpartition(" ")
        frames = stack.split(";")
        if not any(_LOOP in frame for frame in frames):
            continue
        parts = (part for frame in reversed(frames) for mark, part in PARTS.items() if mark in frame)
        found[next(parts)] += int(samples)
    return found


def main() -> None:
    """Print the table."""
    parser = load_options(__doc__, rounds=1)
    parser.set_defaults(seconds=10.0)
    parser.add_argument("--keep", type=Path, help="where the stacks are kept, for flame graphs")
    options = parser.parse_args()
    sampler = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if sampler is None:
        raise SystemExit("py-spy is not installed: pip install py-spy")
    bundle = the_bundle(options)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="readmit-profile-")))
        script = encounters_script(folder, options.source)
        BundleCache(folder / "pod").write(promote(MemoryStore(), bundle, epoch=1), bundle)
        kafka = stack.enter_context(embedded_kafka())
        asyncio.run(create_topics(kafka, [(topic.name, topic.partitions, topic.config()) for topic in TOPICS]))
        port = free_port()
        environment = pod_environment(folder / "pod", kafka, port, log=True)
        address, pid = stack.enter_context(served([sys.executable, "-m", "readmit_inference"], environment, port))
        load(address, script, connections=options.connections, seconds=2)
        stacks = options.keep or folder / "stacks.txt"
        command = [sampler, "record", "--pid", str(pid), "--rate", RATE, "--format", "raw", "--output", str(stacks)]
        with subprocess.Popen(
            [*command, "--duration", f"{options.seconds:.0f}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as sampling:
            seen = load(address, script, connections=options.connections, seconds=options.seconds + 2)
            _, said = sampling.communicate()
        if sampling.returncode:
            raise SystemExit(f"py-spy failed:\n{said.decode()}")
        found = by_part(stacks.read_text().splitlines())
    print(f"{found.total():,} samples at {seen.requests_per_s:,.0f} requests/s\n")
    for part, samples in found.most_common():
        print(f"{part:50} {samples / found.total():6.1%}")


if __name__ == "__main__":
    main()
