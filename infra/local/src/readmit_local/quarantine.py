"""`readmit quarantine`: rows that did not fit the encounter schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from readmit_local.errors import LocalError
from readmit_local.rest import call
from readmit_local.state import State

app = typer.Typer(
    help="Rows that did not fit the encounter schema: look at them, correct, drop and replay them.",
    no_args_is_help=True,
)
_out = Console(highlight=False)

StateDir = Annotated[Path, typer.Option("--state-dir", help="Where databases, objects, logs and secrets are kept.")]
_STATE_DIR = Path(".readmit")
RowId = Annotated[int, typer.Argument(min=1, help="The row's id, as `readmit quarantine list` shows it.")]


def ingestor_url(state_dir: Path) -> str:
    """Where the running ingestor is. Raises `LocalError` when nothing runs."""
    url: str = State(state_dir.resolve()).running_stack()["urls"]["ingestor"]
    return url


@app.command("list")
def list_rows(
    dataset: Annotated[int | None, typer.Option(min=1, help="Version of the data; without it, all.")] = None,
    status: Annotated[str | None, typer.Option(help="open, corrected, dropped or replayed.")] = None,
    field: Annotated[str | None, typer.Option(help="Only rows that were refused for this column.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only rows with a larger id.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    state_dir: StateDir = _STATE_DIR,
) -> None:
    """List quarantined rows: where each stood, and why it was refused."""
    wanted = {"dataset_version": dataset, "status": status, "field": field, "after": after, "limit": limit}
    given = {name: value for name, value in wanted.items() if value is not None}
    page = call("ingestor", ingestor_url(state_dir), "GET", "/quarantine", params=given)
    if as_json:
        print(json.dumps(page, indent=2))  # noqa: T201  for programs: no wrapping, no colours
        return
    table = Table("id", "dataset", "file", "line", "status", "why", box=None)
    for row in page["rows"]:
        why = "; ".join(f"{reason['field']} {reason['problem']}" for reason in row["reasons"])
        place = (str(row["id"]), str(row["dataset_version"]), row["file"], str(row["line"]))
        table.add_row(*place, row["status"], why)
    _out.print(table)
    if page["next"]:
        _out.print(f"more: readmit quarantine list --after {page['next']}")


@app.command()
def summary(state_dir: StateDir = _STATE_DIR) -> None:
    """Count quarantined rows by reason."""
    table = Table("rows", "dataset", "status", "field", "problem", box=None)
    for reason in call("ingestor", ingestor_url(state_dir), "GET", "/quarantine/summary")["reasons"]:
        table.add_row(
            str(reason["rows"]), str(reason["dataset_version"]), reason["status"], reason["field"], reason["problem"]
        )
    _out.print(table)


@app.command()
def show(row_id: RowId, state_dir: StateDir = _STATE_DIR) -> None:
    """Show one row as it came, with every reason."""
    _out.print_json(data=call("ingestor", ingestor_url(state_dir), "GET", f"/quarantine/{row_id}"))


@app.command()
def correct(
    row_id: RowId,
    values: Annotated[list[str], typer.Argument(metavar="FIELD=VALUE...", help="Cells to put in.")],
    state_dir: StateDir = _STATE_DIR,
) -> None:
    """Put other values into a row; it has to fit the schema then."""
    row = call(
        "ingestor", ingestor_url(state_dir), "PATCH", f"/quarantine/{row_id}", json={"values": parse_values(values)}
    )
    _out.print(f"row {row['id']} is corrected; `readmit quarantine replay` takes it in")


@app.command()
def drop(
    row_id: RowId,
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    state_dir: StateDir = _STATE_DIR,
) -> None:
    """Leave a row out for good."""
    row = call("ingestor", ingestor_url(state_dir), "DELETE", f"/quarantine/{row_id}", params={"reason": reason})
    _out.print(f"row {row['id']} is dropped")


def parse_values(texts: list[str]) -> dict[str, str]:
    """`["gender=Female"]` as cells by column. Raises `typer.BadParameter`."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, equals, _) in zip(texts, pairs, strict=True):
        if not name or not equals:
            raise typer.BadParameter(f"{text!r} is not FIELD=VALUE, e.g. gender=Female")
    return {name: value for name, _, value in pairs}


def ask_for_replay(url: str, dataset: int | None) -> str:
    """The id of the ingestion that replays; whoever asked waits for its end."""
    asked: dict[str, Any] = call(
        "ingestor", url, "POST", "/quarantine/replay", json={"dataset_version": dataset, "requested_by": "readmit"}
    )
    if "request_id" not in asked:
        raise LocalError("the ingestor gave no request id; see `readmit logs ingestor`")
    return str(asked["request_id"])
