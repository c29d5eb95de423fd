"""`readmit ledger`: everything that was decided, and whether it still says what was written."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from readmit_local.champion import moment
from readmit_local.errors import LocalError
from readmit_local.promoter import STATE_DIR, AsJson, PromoterUrl, StateDir, promoter

app = typer.Typer(
    help="The promoter's ledger: every judgement, promotion, rollback, command and denial.", no_args_is_help=True
)
_out = Console(highlight=False)


@app.command("list")
def list_entries(
    kind: Annotated[list[str] | None, typer.Option(help="Only these kinds, e.g. rollback; may be repeated.")] = None,
    before: Annotated[int | None, typer.Option(min=1, help="Only entries with a smaller number.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 30,
    as_json: AsJson = False,
    state_dir: StateDir = STATE_DIR,
    promoter_url: PromoterUrl = None,
) -> None:
    """List entries, newest first: when, what, by whom, why."""
    page = promoter(state_dir, promoter_url).get("/ledger", limit=limit, before=before, kind=kind or None)
    if as_json:
        print(json.dumps(page, indent=2))  # noqa: T201  for programs: no wrapping, no colours
        return
    table = Table("number", "at", "kind", "by", "reason", box=None)
    for column in table.columns[:3]:
        column.no_wrap = True
    for entry in page["entries"]:
        table.add_row(str(entry["sequence"]), moment(entry["at"])[:19], entry["kind"], entry["by"], entry["reason"])
    _out.print(table if page["entries"] else "no entries")
    if len(page["entries"]) == limit and page["entries"][-1]["sequence"] > 1:
        _out.print(f"more: readmit ledger list --before {page['entries'][-1]['sequence']}")


@app.command()
def check(state_dir: StateDir = STATE_DIR, promoter_url: PromoterUrl = None) -> None:
    """Derive every entry's digest again, and say whether the chain is whole. Exit code 1 when it is not."""
    found = promoter(state_dir, promoter_url).get("/ledger/check")
    if not found["intact"]:
        raise LocalError("\n  ".join([f"the ledger of {found['entries']} entries was changed", *found["problems"]]))
    _out.print(f"{found['entries']} entries, each as it was written")
