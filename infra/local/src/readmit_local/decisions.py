"""`readmit decisions`: what was decided about candidates, on which figures; derived again, and under another policy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from readmit_local.champion import DecisionId, figure, moment, named
from readmit_local.errors import LocalError
from readmit_local.promoter import STATE_DIR, AsJson, PromoterUrl, StateDir, promoter, short_ids
from readmit_local.rest import Refused

app = typer.Typer(
    help="What was decided about candidates and why: look at it, derive it again, try another policy on it.",
    no_args_is_help=True,
)
_out = Console(highlight=False)
T = TypeVar("T")

_MATCHES = ("same", "differs", "evidence_missing", "not_kept")
_NOT_KEPT = "urn:readmit:problem:not_kept"
_UNSETTLED = "on_insufficient_evidence"
_STYLES = {"pass": "green", "fail": "bold red", "insufficient_evidence": "yellow"}


@app.command("list")
def list_decisions(
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many of the newest.")] = 30,
    as_json: AsJson = False,
    state_dir: StateDir = STATE_DIR,
    promoter_url: PromoterUrl = None,
) -> None:
    """List decisions, newest first: the candidate, what became of it, and why."""
    found = promoter(state_dir, promoter_url).get("/decisions", limit=limit)["decisions"]
    if as_json:
        print(json.dumps(found, indent=2))  # noqa: T201  for programs: no wrapping, no colours
        return
    ids = short_ids([each["decision_id"] for each in found])
    table = Table("id", "decided", "candidate", "outcome", "difference (90 %)", "reason", box=None)
    for column, width in zip(table.columns, (8, 11), strict=False):  # the id has to be whole to be of use
        column.no_wrap, column.min_width = True, width
    for each in found:
        epoch = f", epoch {each['epoch']}" if each["epoch"] else ""
        table.add_row(
            ids[each["decision_id"]], moment(each["decided_at"])[5:16],
            f"{each['candidate']['family']} v{each['candidate']['version']}",
            each["outcome"].replace("_", " ") + epoch,
            _signed(each["difference"], each["difference_low"], each["difference_high"]), each["reason"],
        )  # fmt: skip
    _out.print(table if found else "nothing was decided yet")


@app.command()
def show(
    decision: DecisionId, as_json: AsJson = False, state_dir: StateDir = STATE_DIR, promoter_url: PromoterUrl = None
) -> None:
    """Show one decision: each gate with its figures and thresholds, the evidence, the policy, and what followed."""
    asked = promoter(state_dir, promoter_url)
    found = asked.get(f"/decisions/{asked.decision_id(decision)}")
    if as_json:
        print(json.dumps(found, indent=2))  # noqa: T201  as above
        return
    view, fact = found["decision"], found["judgement"]["fact"]
    _out.print(
        f"{view['decision_id']}, {moment(view['decided_at'])}\n{named(view['candidate'])}, dataset"
        f" {view['dataset_version']}, batch {view['batch']}{', SYNTHETIC' if view['synthetic'] else ''}, against"
        f" {named(view['champion_before'])}\n{view['outcome'].replace('_', ' ')}: {view['reason']}, {view['detail']}",
        soft_wrap=True,
    )
    _out.print(gate_table(fact["decision"]["verdict"]["gates"]))
    _out.print(_origin(view, fact), soft_wrap=True)
    for entry in found["followed_by"]:
        _out.print(f"then {entry['kind']} ({moment(entry['at'])}, by {entry['by']}): {entry['reason']}", soft_wrap=True)


@app.command()
def replay(
    decision: Annotated[
        str | None, typer.Argument(help="One decision's id, or its beginning; without it, all of them.")
    ] = None,
    state_dir: StateDir = STATE_DIR,
    promoter_url: PromoterUrl = None,
) -> None:
    """Derive decisions again from the kept evidence, and compare to the byte. Exit code 1 when one differs.

    evidence_missing: the object store no longer has it. not_kept: decided before the ledger kept what it follows from.
    """
    asked = promoter(state_dir, promoter_url)
    ids = [asked.decision_id(decision)] if decision else [each["entry_id"] for each in asked.judgements()]
    counts: Counter[str] = Counter()
    for each in _with_bar("deriving", ids):
        answer = asked.derive(f"/decisions/{each}/replay")
        counts[answer["match"]] += 1
        if answer["match"] != "same":
            _out.print(f"{each} {answer['match']}: {answer['detail']}".rstrip(": "), soft_wrap=True)
            for one in answer["differences"]:
                where = f"{one['gate'] or 'verdict'}, {one['entry']}"
                _out.print(f"  {where}: kept {one['kept']!r}, derived {one['derived']!r}", soft_wrap=True)
    _out.print(", ".join(f"{counts[match]} {match}" for match in _MATCHES))
    if counts["differs"]:
        raise LocalError(f"{counts['differs']} of {len(ids)} decisions differ from what was kept")


@app.command("try")
def try_policy(
    policy: Annotated[Path, typer.Argument(help="A policy as its YAML file.")],
    state_dir: StateDir = STATE_DIR,
    promoter_url: PromoterUrl = None,
) -> None:
    """Judge every past candidate by another policy, against the champion it faced then. Nothing is written."""
    try:
        body = policy.read_bytes()
    except OSError as error:
        raise LocalError(f"{policy}: {error.strerror}; give a policy as its YAML file") from error
    asked = promoter(state_dir, promoter_url)
    ids = [each["entry_id"] for each in asked.judgements()]
    short = short_ids(ids)
    table = Table("id", "was", "would be", "gates that say something else", box=None)
    told: Counter[str] = Counter()
    for each in _with_bar("trying", ids):
        try:
            answer = asked.derive(f"/decisions/{each}/try", content=body, headers={"content-type": "application/yaml"})
        except Refused as refused:
            if refused.kind != _NOT_KEPT:
                raise
            told["not kept whole"] += 1
            continue
        told["judged" if answer["outcome"] is not None else "without their evidence"] += 1
        if answer["outcome"] is None or (answer["outcome"] == answer["outcome_before"] and not answer["changed"]):
            continue
        told["change"] += 1
        gates = ", ".join(
            f"{one['gate']}: {one['before'] or 'none'} → {one['now'] or 'none'}" for one in answer["changed"]
        )
        table.add_row(short[each], answer["outcome_before"], f"{answer['outcome']} ({answer['reason']})", gates)
    if table.rows:
        _out.print(table)
    _out.print(f"{told['change']} of {told['judged']} decisions would change" + "".join(
        f", {told[what]} {what}" for what in ("without their evidence", "not kept whole") if told[what]
    ))  # fmt: skip


def gate_table(gates: Iterable[dict[str, Any]]) -> Table:
    """Each gate with its status, its figures and its thresholds; of groups, only those that did not pass."""
    table = Table("gate", "found", "figures", "thresholds", box=None, padding=(0, 2, 0, 0))
    for gate in gates:
        status = gate["status"]
        figures = [gate["detail"], *_groups(gate["figures"])] if _is_of_groups(gate) else [*_figures(gate["figures"])]
        limits = [f"{name} {figure(value)}" for name, value in gate["thresholds"].items() if name != _UNSETTLED]
        if status == "insufficient_evidence" and _UNSETTLED in gate["thresholds"]:
            limits.append(f"then: {gate['thresholds'][_UNSETTLED]}")
        told = Text(status.replace("_evidence", "").replace("_", " "), style=_STYLES.get(status, "dim"))
        table.add_row(gate["gate"], told, Text("\n".join(figures) or gate["detail"]), Text("\n".join(limits)))
    return table


def _is_of_groups(gate: dict[str, Any]) -> bool:
    return any("/" in name for name in gate["figures"])


def _groups(figures: dict[str, Any]) -> Iterator[str]:
    """Groups that were harmed, by name; those that are too small are counted in the gate's own words."""
    for name, value in figures.items():
        if name.endswith("/status") and value == "fail":
            yield f"{name.removesuffix('/status')}: {value}"


def _figures(figures: dict[str, Any]) -> Iterator[str]:
    """`x`, `x_low` and `x_high` as one line."""
    for name, value in figures.items():
        stem, _, end = name.rpartition("_")
        if end in {"low", "high"} and stem in figures:
            continue
        low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
        between = f" ({figure(low)} to {figure(high)})" if low is not None and high is not None else ""
        yield f"{name} {figure(value)}{between}"


def _origin(view: dict[str, Any], fact: dict[str, Any]) -> str:
    case, verdict = fact["decision"]["case"], fact["decision"]["verdict"]
    lines = []
    if view["evidence_sha256"] is not None:  # else the announcement could not be read
        lines += [f"evidence {view['evidence_sha256']}", f"bundle   {case['event']['bundle']['sha256']}"]
        if case.get("champion"):
            lines.append(f"champion's evidence {case['champion']['evidence']['sha256']}")
    lines.append(f"policy   {view['policy_version']}, {verdict['policy_sha256']}")
    return "\n".join(lines)


def _signed(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return ""
    return f"{value:+.4f} ({low:+.4f} to {high:+.4f})"


def _with_bar(what: str, items: list[T]) -> Iterator[T]:
    # On standard error: the answers may go to a file.
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, description=what)
