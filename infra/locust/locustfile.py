"""The load test of `POST /predict`. `infra/locust/run` starts it without a browser; `locust -f` with one.

--host URL[,URL…]        the inference pods: users are spread over them in turn
--shape original         50 users, 5 joining per second, for two minutes
--shape steps            50, 100, … 500 users, half a minute each
--shape users            as many as --users and --spawn-rate say, or the form, for --seconds or until stopped
--seconds N              another length: of each stage, or of the whole with --shape users

Where inference asks for a key: READMIT_INFERENCE_API_KEY, or a file /run/secrets/READMIT_INFERENCE_API_KEY.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from pathlib import Path
from typing import Any, ClassVar

from encounters import bodies, encounters
from locust import FastHttpUser, LoadTestShape, between, events, tag, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner
from shapes import SHAPES, stage_at

POOL_ROWS = 5_000

_turn = itertools.count()


def api_key_header(folder: Path = Path("/run/secrets"), name: str = "READMIT_INFERENCE_API_KEY") -> dict[str, str]:
    """What every request carries."""
    file = folder / name
    key = os.environ.get(name) or (file.read_text().strip() if file.is_file() else "")
    return {"X-API-Key": key} if key else {}


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """The options above; the browser's form shows them too."""
    parser.add_argument(
        "--shape", choices=[*SHAPES, "users"], default="original", env_var="LOCUST_SHAPE", help="how the load grows"
    )
    parser.add_argument(
        "--seconds", default="", env_var="LOCUST_SECONDS", help="length of each stage, or of the whole (users)"
    )


@events.init.add_listener
def draw_encounters(**_: Any) -> None:
    """Once per process: making them takes a moment that no request should wait for."""
    Clinician.pool = encounters(POOL_ROWS, seed=random.randrange(2**32))  # noqa: S311  no secret


@events.quitting.add_listener
def nothing_is_a_failure(environment: Environment, **_: Any) -> None:
    """A run without a single request proves nothing: it fails."""
    if not isinstance(environment.runner, WorkerRunner) and environment.stats.total.num_requests == 0:
        environment.process_exit_code = 1


class Shape(LoadTestShape):
    """The number of users over time, by `--shape`."""

    use_common_options = True  # the form keeps its fields for users and rate

    def tick(self) -> tuple[int, float] | None:
        options = self.runner.environment.parsed_options
        seconds = float(options.seconds) if options.seconds else None
        if options.shape == "users":
            return None if seconds and self.get_run_time() > seconds else (options.num_users, options.spawn_rate)
        stage = stage_at(options.shape, self.get_run_time(), seconds)
        return None if stage is None else (stage.users, stage.per_second)


class Clinician(FastHttpUser):
    """Asks for a risk, reads the answer, asks for another."""

    wait_time = between(1, 5)
    pool: ClassVar[list[dict[str, str]]] = []

    def __init__(self, environment: Environment) -> None:
        pods = [url for url in (self.host or "").split(",") if url]
        if pods:
            self.host = pods[next(_turn) % len(pods)].rstrip("/")
        super().__init__(environment)
        self._headers = api_key_header()
        self._bodies = bodies(random.Random(), self.pool)  # noqa: S311  no secret

    @tag("predict")
    @task
    def predict(self) -> None:
        """One encounter. Anything but a 200 with a risk between 0 and 1 is a failure."""
        sent = self.client.post("/predict", json=next(self._bodies), headers=self._headers, catch_response=True)
        with sent as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}" if answer.status_code else f"no answer: {answer.error!r}")
            elif not carries_a_risk(answer.text or ""):
                answer.failure("a 200 without a risk between 0 and 1")


def carries_a_risk(text: str) -> bool:
    """Whether this is a JSON object whose `risk` is a number from 0 to 1."""
    try:
        answer = json.loads(text)
    except json.JSONDecodeError:
        return False
    risk = answer.get("risk") if isinstance(answer, dict) else None
    return isinstance(risk, float | int) and not isinstance(risk, bool) and 0 <= risk <= 1
