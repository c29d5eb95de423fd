"""`readmit up`: start everything, ingest, watch the loop until a promoted model answers, keep it running."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from readmit_contracts.encounter import example_encounter
from readmit_local.client import Services, request_ingestion
from readmit_local.errors import LocalError
from readmit_local.kafka import require_java
from readmit_local.loop import Loop, look, news, why_no_champion
from readmit_local.observation import missing_programs
from readmit_local.ports import OBSERVATION, choose_ports
from readmit_local.progress import Progress
from readmit_local.stack import KafkaKind, Stack
from readmit_local.state import State
from readmit_local.supervisor import Supervisor, stop_leftovers

_UNREACHABLE = {"source_unreachable", "source_http_error", "source_not_data"}
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for. `source` is resolved; None: whatever is there, else the real data, else a sample.

    `policy` is usable; None: the one that comes with the promoter.
    """

    state: State
    source: str | None = None
    kafka: KafkaKind = "embedded"
    ports: str = "default"
    port_overrides: Mapping[str, int] = field(default_factory=dict)
    pods: int = 1
    exit_when: Literal["served", "trained"] | None = None
    observe: bool = False
    alert_webhook: str | None = None
    policy: Path | None = None


@dataclass(frozen=True, slots=True)
class Following:
    """What the watcher follows: a request, or a dataset that was there before."""

    request_id: str | None
    dataset_version: int | None
    may_fall_back: bool


async def up(options: Options, console: Console) -> None:
    """Run until the goal is reached or a signal comes; everything is stopped then. Raises `LocalError`."""
    signalled = _cancel_on_signal()
    if options.kafka == "apache":
        require_java()
    options.state.prepare()
    try:
        with options.state.locked(), Progress(console) as progress:
            await _up(options, progress)
    except asyncio.CancelledError:
        if not signalled.is_set():
            raise


async def _up(options: Options, progress: Progress) -> None:
    state = options.state
    for name in await stop_leftovers(state):
        progress.say(f"{name} was left over from a killed run: stopped")
    if (before := state.stack().get("kafka", options.kafka)) != options.kafka:
        raise LocalError(
            f"{state.root} keeps its events in the {before} Kafka; "
            f"go on with --kafka {before}, or choose another --state-dir"
        )
    if options.observe and (missing := missing_programs()):
        progress.notice(
            f"Not observed: {' and '.join(missing)} not installed. On Debian: apt install prometheus "
            "prometheus-alertmanager. Everything else starts."
        )
        options = replace(options, observe=False)
    ports = choose_ports(options.ports, options.port_overrides, options.pods, observe=options.observe)
    state.list_operator()
    supervisor = Supervisor(state, progress.say)
    stack = Stack(state, options.kafka, ports, state.secrets(), supervisor, options.pods, options.policy)
    state.write_stack(stack.description())
    services = Services(stack.description()["urls"])
    try:
        await _run(options, stack, services, progress)
    finally:
        progress.clear()
        progress.say("stopping")
        await services.close()
        await supervisor.stop()
        state.write_stack(state.stack() | {"up": None})
        progress.say("stopped; the state is kept: the next `readmit up` continues")


def _cancel_on_signal() -> asyncio.Event:
    """SIGINT and SIGTERM cancel this task once; more of them change nothing, stopping is bounded."""
    task, signalled, loop = asyncio.current_task(), asyncio.Event(), asyncio.get_running_loop()

    def on_signal() -> None:
        if not signalled.is_set() and task is not None:
            signalled.set()
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return signalled


async def _run(options: Options, stack: Stack, services: Services, progress: Progress) -> None:
    await stack.start_parts()
    # What ingestion does not need starts beside it.
    starting = [asyncio.create_task(stack.start_mlflow()), asyncio.create_task(stack.start_other_services())]
    if options.observe:
        starting.append(asyncio.create_task(stack.start_observation(options.alert_webhook)))
    try:
        await stack.start_ingestor()
        following = await _begin(options, stack, services, progress)
        await _watch(options, stack, services, progress, following, starting)
    finally:
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)


async def _begin(options: Options, stack: Stack, services: Services, progress: Progress) -> Following:
    """Ask for ingestion, unless the state already has data and nobody named a source."""
    bootstrap = stack.description()["urls"]["kafka"]
    if options.source is not None:
        progress.say(f"asking for the ingestion of {options.source}")
        return Following(await request_ingestion(bootstrap, options.source), None, may_fall_back=False)
    for ingestion in await services.ingestions():
        if not ingestion.ended:
            progress.say(f"the ingestion of {ingestion.source} continues")
            return Following(ingestion.request_id, None, may_fall_back=ingestion.source == "uci")
    if datasets := await services.datasets():
        newest = datasets[-1]
        progress.say(f"dataset {newest.version} is there ({newest.source}): nothing to ingest")
        return Following(None, newest.version, may_fall_back=False)
    progress.say("asking for the ingestion of the real data (cached, else from the UCI archive)")
    return Following(await request_ingestion(bootstrap, "uci"), None, may_fall_back=True)


async def _watch(
    options: Options, stack: Stack, services: Services, progress: Progress, following: Following,
    starting: Sequence[asyncio.Future[None]],
) -> None:  # fmt: skip
    seen, served, trained = Loop(), False, False
    if following.dataset_version is not None:  # what was known before is no news
        seen = await look(services, None, following.dataset_version, seen)
    while True:
        for task in starting:
            if task.done():
                task.result()  # raises what went wrong
        now = await look(services, following.request_id, following.dataset_version, seen)
        for line in news(seen, now):
            progress.say(line)
        seen = now
        progress.show(now)
        following = await _fallen_back(following, now, stack, progress)
        if not served and (answer := await _first_answer(stack, services)) is not None:
            served = True
            _announce(answer, stack, progress)
            if options.exit_when == "served":
                return
        if not trained and now.trained:
            trained = True
            progress.say(f"all batches done: every fit judged {progress.elapsed_s:.1f} s after the start")
            if not served and await services.champion() is None:
                if options.exit_when:
                    raise LocalError(why_no_champion(now))
                progress.notice(why_no_champion(now))
        if trained and served and options.exit_when == "trained":
            return
        await asyncio.sleep(_LOOK_EVERY_S)


async def _fallen_back(following: Following, now: Loop, stack: Stack, progress: Progress) -> Following:
    """Go on with a sample when the real data cannot be had. Raises `LocalError` for a source that was named."""
    if now.ingestion is None or now.ingestion.status != "failed" or following.request_id is None:
        return following
    error = now.ingestion.error
    if following.may_fall_back and error is not None and error.code in _UNREACHABLE:
        progress.notice(
            f"The real data cannot be had: {error.message}\n"
            "Going on with a SYNTHETIC sample: generated rows, no real patients. Every model and answer says so.\n"
            "With the file at hand: readmit ingest PATH"
        )
        bootstrap = stack.description()["urls"]["kafka"]
        return replace(following, request_id=await request_ingestion(bootstrap, "sample"), may_fall_back=False)
    raise LocalError(now.ingestion.why_failed)


async def _first_answer(stack: Stack, services: Services) -> dict[str, Any] | None:
    """A real answer of a promoted model, from every pod; None while there is none."""
    body = json.dumps(example_encounter()).encode()
    answer = None
    for url in stack.description()["urls"]["inference"]:
        answer = await services.predict(url, body)
        if answer is None or answer.status_code != 200:
            return None
    answered: dict[str, Any] | None = answer.json() if answer is not None else None
    return answered


def _announce(answer: dict[str, Any], stack: Stack, progress: Progress) -> None:
    urls = stack.description()["urls"]
    model = answer["model"]
    progress.say(f"first answer: a promoted model answered {progress.elapsed_s:.1f} s after the start")
    progress.console.print_json(json.dumps(answer))
    if model["synthetic"]:
        progress.notice("This model was trained on SYNTHETIC data. It says nothing about patients.")
    observed = "".join(f"\n  {name.capitalize():<12} {urls[name]}" for name in OBSERVATION if name in urls)
    progress.console.print(
        f"\n  predict      {urls['inference'][0]}/predict   (its schema: {urls['inference'][0]}/docs)"
        f"\n  UI           {urls['ui']}"
        f"\n  MLflow       {urls['mlflow']}"
        f"{observed}"
        "\n\n  Try next: open the UI; `readmit status`; `readmit ingest sample:30000`; `readmit predict FILE`;"
        "\n  `readmit logs trainer -f`. Ctrl-C stops everything and keeps the state.\n",
        highlight=False,
        soft_wrap=True,
    )
