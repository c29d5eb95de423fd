"""The commands. Each prints one line and exits with 1 when it cannot do what it was asked; 2 is wrong usage."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.table import Table

from readmit_chassis.failures import Transient
from readmit_chassis.settings import SECRETS_DIR
from readmit_local.batch_prediction import predict_batch as send_batch
from readmit_local.champion import app as champion_app
from readmit_local.client import Ingestion, Services, Training, key_headers, request_ingestion, request_training
from readmit_local.database import Server, passwords_from, prepare_database, wait_for_server
from readmit_local.decisions import app as decisions_app
from readmit_local.errors import LocalError
from readmit_local.kafka import provision_topics
from readmit_local.ledger import app as ledger_app
from readmit_local.log_tail import tail
from readmit_local.policy import usable_policy
from readmit_local.ports import DEFAULT_PORTS, parse_overrides
from readmit_local.progress import Progress
from readmit_local.quarantine import app as quarantine_app
from readmit_local.quarantine import ask_for_replay
from readmit_local.rest import call
from readmit_local.secret_files import secret_file
from readmit_local.source import resolve_source
from readmit_local.state import State
from readmit_local.status import stack_status, stop_running
from readmit_local.up import Options, up

app = typer.Typer(
    help="Readmit on this machine: the whole loop from raw encounters to a served risk, with real parts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(quarantine_app, name="quarantine")
app.add_typer(champion_app)
app.add_typer(decisions_app, name="decisions")
app.add_typer(ledger_app, name="ledger")
_out = Console(highlight=False)

StateDir = Annotated[Path, typer.Option("--state-dir", help="Where databases, objects, logs and secrets are kept.")]
_STATE_DIR = Path(".readmit")


class KafkaChoice(str, Enum):  # noqa: UP042  typer shows the values of a str enum
    """Which Kafka."""

    embedded = "embedded"
    apache = "apache"


class PortsChoice(str, Enum):  # noqa: UP042  as above
    """Which ports."""

    default = "default"
    free = "free"


@app.command("up")
def up_command(
    source: Annotated[
        str | None,
        typer.Option(
            help="PATH or URL of the CSV or zip, `uci`, or `sample[:ROWS]`. Without it: the data that the state "
            "holds, else the UCI archive (cached), else a synthetic sample."
        ),
    ] = None,
    exit_when_served: Annotated[
        bool, typer.Option("--exit-when-served", help="Stop everything after the first answer.")
    ] = False,
    exit_when_trained: Annotated[
        bool, typer.Option("--exit-when-trained", help="Stop everything when all fits are judged.")
    ] = False,
    state_dir: StateDir = _STATE_DIR,
    kafka: Annotated[
        KafkaChoice, typer.Option(help="The embedded broker, or Apache Kafka itself (needs java and mvn).")
    ] = KafkaChoice.embedded,
    ports: Annotated[PortsChoice, typer.Option(help="The default ports, or any free ones.")] = PortsChoice.default,
    port: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help=f"Another port for one part. Names: {', '.join(DEFAULT_PORTS)}."),
    ] = None,
    pods: Annotated[int, typer.Option(min=1, max=16, help="Inference processes.")] = 1,
    observe: Annotated[
        bool, typer.Option("--observe", help="Also Prometheus and Alertmanager, where they are installed.")
    ] = False,
    alert_webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="With --observe: where alerts are posted.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="PROMOTER_POLICY_FILE",
            help="What a promotion takes, as the promoter's YAML file; without it, the policy that is shipped.",
        ),
    ] = None,
) -> None:
    """Start everything, ingest, train, promote, serve; Ctrl-C stops it and keeps the state."""
    try:
        options = Options(
            State(state_dir.resolve()),
            None if source is None else resolve_source(source),
            kafka.value,
            ports.value,
            parse_overrides(port or [], pods),
            pods,
            "served" if exit_when_served else "trained" if exit_when_trained else None,
            observe,
            alert_webhook,
            None if policy is None else usable_policy(policy),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    asyncio.run(up(options, _out))


@app.command()
def down(state_dir: StateDir = _STATE_DIR) -> None:
    """Stop the running `readmit up`, and what a killed one left behind. The state is kept."""
    for line in asyncio.run(stop_running(State(state_dir.resolve()))):
        _out.print(line)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False, state_dir: StateDir = _STATE_DIR
) -> None:
    """Show which parts run and where, the datasets, the fits and the champion. Exit code 1 when nothing runs."""
    found = asyncio.run(stack_status(State(state_dir.resolve())))
    if as_json:
        print(json.dumps(found, indent=2))  # noqa: T201  for programs: no wrapping, no colours
    else:
        _print_status(found)
    if not found["running"]:
        raise typer.Exit(1)


@app.command()
def logs(
    service: Annotated[str, typer.Argument(help="Name of a part, as `readmit status` shows it.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines.")] = 50,
    state_dir: StateDir = _STATE_DIR,
) -> None:
    """Show what a part logged."""
    state = State(state_dir.resolve())
    if not state.log_file(service).is_file():
        there = ", ".join(sorted(path.stem for path in state.logs.glob("*.log"))) or "none yet"
        raise LocalError(f"no log of {service!r} in {state.logs}; there are: {there}")
    try:
        for line in tail(state.log_file(service), lines, follow=follow):
            sys.stdout.write(line)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return


@app.command()
def ingest(
    source: Annotated[
        str,
        typer.Argument(help="File or folder, http(s) or s3 URL, `uci` or `sample[:ROWS]`; `#sha256=HEX` may follow."),
    ],
    shuffled: Annotated[
        bool, typer.Option("--shuffled", help="Batches in a shuffled order; without it, in the order of encounters.")
    ] = False,
    state_dir: StateDir = _STATE_DIR,
) -> None:
    """Ask the running ingestor for a source, and wait for the end of it."""
    try:
        resolved = resolve_source(source)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    urls = _running_urls(state_dir)
    _tell(source, asyncio.run(_ingest(urls, request_ingestion(urls["kafka"], resolved, shuffled=shuffled))))


@quarantine_app.command()
def replay(
    dataset: Annotated[
        int | None, typer.Option(min=1, help="Version of the data; without it, the newest with corrected rows.")
    ] = None,
    state_dir: StateDir = _STATE_DIR,
) -> None:
    """Make a new version of the data with the corrected rows in it, and wait for the end of it."""
    urls = _running_urls(state_dir)

    async def ask() -> str:
        return await asyncio.to_thread(ask_for_replay, urls["ingestor"], dataset)

    _tell("the replay", asyncio.run(_ingest(urls, ask())))


@app.command()
def outcomes(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="CSV with prediction_id,readmitted_within_30_days[,intervened,observed_at,correction];"
            " without it, show what has come back."
        ),
    ] = None,
    state_dir: StateDir = _STATE_DIR,
) -> None:
    """Say what became of predicted patients, or see what has come back."""
    url = _running_urls(state_dir)["ingestor"]
    if file is None:
        _out.print_json(data=call("ingestor", url, "GET", "/outcomes/summary"))
        return
    try:
        body = file.read_bytes()
    except OSError as error:
        raise LocalError(f"{file}: {error.strerror}; give a CSV file of outcomes") from error
    done = call("ingestor", url, "POST", "/outcomes", content=body, headers={"content-type": "text/csv"})
    _out.print(", ".join(f"{count} {what.replace('_', ' ')}" for what, count in done.items()))


@app.command()
def feedback(state_dir: StateDir = _STATE_DIR) -> None:
    """Make the next training batch of the outcomes that have come back, without waiting for more."""
    made = call("ingestor", _running_urls(state_dir)["ingestor"], "POST", "/feedback/batches")
    _out.print(
        f"batch {made['batch']} of dataset {made['dataset_version']}: {made['rows']} rows, {made['positives']}"
        f" readmitted, {made['intervened']} intervened;"
        f" {made['validation_rows']} rows joined validation, {made['test_rows']} test",
        soft_wrap=True,
    )


@app.command()
def train(
    dataset: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Version of the data; without it, the newest.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train the last batch again, though nothing is missing.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "asked by the operator",
    state_dir: StateDir = _STATE_DIR,
) -> None:
    """Ask the running trainer for the fits that are missing, and wait for the end of them."""
    ended = asyncio.run(_train(_running_urls(state_dir), reason, dataset, force))
    for model in ended.models:
        what = f"failed: {model.error}" if model.auroc is None else f"AUROC {model.auroc:.3f}"
        _out.print(f"{model.family} on batches 1..{model.batch}: {what}", soft_wrap=True)
    if ended.status == "failed":
        raise LocalError(ended.error or "training failed without a reason; see `readmit logs trainer`")
    what = "had nothing missing" if ended.status == "unchanged" else "is trained on"
    _out.print(f"dataset {ended.dataset_version} {what}")


@app.command()
def predict(
    file: Annotated[str, typer.Argument(help="JSON file with one encounter, or - for standard input.")],
    state_dir: StateDir = _STATE_DIR,
) -> None:
    """Post one encounter to the running model and print its answer."""
    try:
        body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise LocalError(f"{file}: {error.strerror}; give a JSON file with one encounter, or -") from error
    status_code, answer = asyncio.run(_predict(_running_urls(state_dir), body))
    (_out if status_code == 200 else Console(stderr=True)).print_json(answer)
    if status_code != 200:
        raise LocalError(f"{file}: refused with {status_code}; the answer above says why")


@app.command()
def predict_batch(
    file: Annotated[Path, typer.Argument(help="Encounters: .csv with the columns' names first, .ndjson, or .json.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File; without it, standard output.")] = None,
    state_dir: StateDir = _STATE_DIR,
) -> None:
    """Send a file of encounters to the running model, and write a risk or an error for each."""
    url = _running_urls(state_dir)["inference"][0]
    try:
        with nullcontext(sys.stdout.buffer) if output is None else output.open("wb") as answers:
            send_batch(url, key_headers(), file, answers)
    except OSError as error:
        raise LocalError(f"{output}: {error.strerror}; choose another file with -o") from error


@app.command()
def sample(
    rows: Annotated[int, typer.Argument(min=1, help="How many encounters.")] = 20_000,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File; without it, standard output.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other rows.")] = 7,
    state_dir: StateDir = _STATE_DIR,  # noqa: ARG001  every command takes it
) -> None:
    """Write a SYNTHETIC sample of the source's schema as CSV: generated rows, no real patients."""
    from readmit_features.synthetic import write_sample  # noqa: PLC0415  numpy takes its time, others need none of it

    try:
        write_sample(sys.stdout if output is None else output, rows, seed=seed)
    except OSError as error:
        raise LocalError(f"{output}: {error.strerror}; choose another file with -o") from error


@app.command()
def topics(
    bootstrap_servers: Annotated[str, typer.Argument(help="The cluster: HOST:PORT[,HOST:PORT…].")],
) -> None:
    """Create the topics that a cluster lacks, dead-letter topics included. For Compose and clusters."""
    try:
        asyncio.run(provision_topics(bootstrap_servers))
    except (KafkaError, OSError, Transient) as error:
        raise LocalError(f"{bootstrap_servers}: topics not created ({error}); is Kafka up there?") from error
    _out.print("every topic is there")


SecretsDir = Annotated[Path, typer.Option("--secrets-dir", help="Where the secret files are: `make secrets`.")]


@app.command()
def database(
    host: Annotated[str, typer.Argument(help="The PostgreSQL server.")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5432,
    user: Annotated[str, typer.Option(help="A superuser.")] = "postgres",
    secrets_dir: SecretsDir = Path(SECRETS_DIR),
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the server.")] = 60,
) -> None:
    """Make roles, databases and schemas, and set the roles' passwords. For Compose and clusters; safe to repeat."""
    server = Server(host, port, secret_file(secrets_dir, "postgres_password"), user)
    passwords = passwords_from(secrets_dir)
    try:
        asyncio.run(wait_for_server(server, wait_s))
        asyncio.run(prepare_database(server, passwords))
    except psycopg.Error as error:
        raise LocalError(f"{host}:{port}: database not prepared ({str(error).strip()})") from error
    _out.print(f"{len(passwords)} roles and their schemas are there")


@app.command()
def bucket(
    endpoint_url: Annotated[str, typer.Argument(help="The S3 server, e.g. http://s3:8333.")],
    secrets_dir: SecretsDir = Path(SECRETS_DIR),
) -> None:
    """Make the bucket of the models unless it is there, with the key `admin`. For Compose and clusters."""
    from readmit_local.bucket import BUCKET, make_bucket  # noqa: PLC0415  boto3 takes its time, others need none of it

    access_key = secret_file(secrets_dir, "admin_s3_access_key")
    made = make_bucket(endpoint_url, access_key, secret_file(secrets_dir, "admin_s3_secret_key"))
    _out.print(f"bucket {BUCKET} {'made' if made else 'is there'}")


def main() -> None:
    """Entry point of the command."""
    # What the Kafka client mutters while a broker starts is not for the terminal; what matters is said as an error.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        app()
    except LocalError as error:
        print(f"readmit: {error}", file=sys.stderr)  # noqa: T201  one line, unwrapped
        sys.exit(1)


def _running_urls(state_dir: Path) -> dict[str, Any]:
    urls: dict[str, Any] = State(state_dir.resolve()).running_stack()["urls"]
    return urls


async def _ingest(urls: dict[str, Any], asking: Awaitable[str]) -> Ingestion:
    """Ask, then follow the ingestion to its end."""
    services = Services(urls)
    try:
        request_id = await asking
        with Progress(_out) as progress:
            while True:
                ingestion = await services.ingestion(request_id)
                if ingestion is not None:
                    progress.show_ingestion(ingestion)
                    if ingestion.ended:
                        return ingestion
                await asyncio.sleep(0.2)
    finally:
        await services.close()


def _tell(source: str, ended: Ingestion) -> None:
    """The end of an ingestion: what it is now, what was refused and changed."""
    if ended.status == "failed":
        raise LocalError(ended.why_failed)
    what = "has nothing new; it is" if ended.status == "unchanged" else "is ingested as"
    _out.print(f"{source} {what} dataset {ended.dataset_version}" + (" (SYNTHETIC)" if ended.synthetic else ""))
    _out.print(
        f"{ended.rows_read or 0:,} rows read, {ended.rows_excluded or 0:,} set apart, {ended.rows_quarantined or 0:,}"
        f" quarantined, {ended.batches_written or 0} batches"
    )
    for title, counts in (("quarantined", ended.quarantined_by), ("changed", ended.changes)):
        for reason, count in counts.items():
            _out.print(f"  {title} {count:,}: {reason}", soft_wrap=True)


async def _train(urls: dict[str, Any], reason: str, dataset_version: int | None, force: bool) -> Training:
    services = Services(urls)
    try:
        request_id = await request_training(urls["kafka"], reason, dataset_version=dataset_version, force=force)
        while True:
            training = await services.training(request_id)
            if training is not None and training.status != "running":
                return training
            await asyncio.sleep(0.5)
    finally:
        await services.close()


async def _predict(urls: dict[str, Any], body: bytes) -> tuple[int, str]:
    services = Services(urls)
    try:
        answer = await services.predict(urls["inference"][0], body)
    finally:
        await services.close()
    if answer is None:
        raise LocalError(f"inference at {urls['inference'][0]} does not answer; see `readmit logs inference`")
    return answer.status_code, answer.text


def _print_status(found: dict[str, Any]) -> None:
    if not found["running"]:
        left = ", ".join(found["left_over"])
        _out.print(
            f"`readmit up` was killed and left {left}; stop them with `readmit down`, or go on with `readmit up`"
            if left
            else f"nothing runs on {found['state_dir']}; start it with `readmit up`",
            soft_wrap=True,
        )
        return
    table = Table("part", "address", "pid", "state", box=None)
    for name, part in found["parts"].items():
        table.add_row(name, part["address"] or "", str(part["pid"] or ""), part["state"])
    _out.print(table)
    champion = found["champion"]
    for dataset in found["datasets"]:
        _out.print(f"dataset {dataset['version']}: {dataset['batches_total']} batches, {dataset['source']}"
                   + (" (SYNTHETIC)" if dataset["synthetic"] else ""))  # fmt: skip
    _out.print("fits: " + (", ".join(f"{count} {state}" for state, count in found["jobs"].items()) or "none"))
    _out.print(f"champion: {champion['name']} v{champion['version']}, epoch {champion['epoch']}" if champion else
               "champion: none yet")  # fmt: skip
