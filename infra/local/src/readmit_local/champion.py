"""`readmit rollout`, `rollback`, `freeze`, `approve`, …: the champion, how it comes to every pod, and who says so."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from readmit_local.errors import LocalError
from readmit_local.promoter import STATE_DIR, AsJson, Promoter, PromoterUrl, Reason, StateDir, promoter

app = typer.Typer()
_out = Console(highlight=False)

_LOOK_EVERY_S = 0.5

DecisionId = Annotated[str, typer.Argument(help="The decision's id, or at least 4 characters of its beginning.")]


@app.command()
def rollout(
    watch: Annotated[bool, typer.Option("--watch", help="Show it live until it has converged, or Ctrl-C.")] = False,
    as_json: AsJson = False,
    state_dir: StateDir = STATE_DIR,
    promoter_url: PromoterUrl = None,
) -> None:
    """Show how far the newest promotion has come, pod by pod, and the candidate on trial.

    With --watch the exit code is 1 where the promotion does not reach every pod in time.
    """
    asked = promoter(state_dir, promoter_url)
    if watch:
        _watch(asked)
        return
    found = asked.get("/rollout")
    if as_json:
        print(json.dumps(found, indent=2))  # noqa: T201  for programs: no wrapping, no colours
    else:
        _out.print(rollout_view(found))


@app.command()
def rollback(
    reason: Reason,
    to: Annotated[
        str | None,
        typer.Option(metavar="NAME:VERSION", help="A former champion; without it, the one before the present."),
    ] = None,
    state_dir: StateDir = STATE_DIR,
    promoter_url: PromoterUrl = None,
) -> None:
    """Go back to a former champion; every pod serves it within a second. Takes the role approver."""
    asked = promoter(state_dir, promoter_url)
    entry = asked.post("/rollback", {"reason": reason, "to": None if to is None else parse_version(to)})
    fact = entry["fact"]
    _out.print(
        f"epoch {fact['epoch']}: {named(fact['model'])} is champion again, instead of {named(fact['previous'])};"
        " `readmit rollout --watch` shows the pods", soft_wrap=True,
    )  # fmt: skip


@app.command()
def freeze(reason: Reason, state_dir: StateDir = STATE_DIR, promoter_url: PromoterUrl = None) -> None:
    """Let no candidate become champion; a trial ends, rollbacks stay possible. Takes the role approver."""
    promoter(state_dir, promoter_url).post("/freeze", {"reason": reason})
    _out.print("promotions are frozen until `readmit unfreeze`; candidates wait")


@app.command()
def unfreeze(reason: Reason, state_dir: StateDir = STATE_DIR, promoter_url: PromoterUrl = None) -> None:
    """Judge and promote again, those first that have waited longest. Takes the role admin."""
    promoter(state_dir, promoter_url).post("/unfreeze", {"reason": reason})
    _out.print("candidates are judged and promoted again")


@app.command()
def approve(
    decision: DecisionId, reason: Reason, state_dir: StateDir = STATE_DIR, promoter_url: PromoterUrl = None
) -> None:
    """Say yes to a candidate that waits for it: it is promoted, or goes on trial. Takes the role approver."""
    asked = promoter(state_dir, promoter_url)
    answer = asked.post(f"/decisions/{asked.decision_id(decision)}/approve", {"reason": reason})
    _out.print(f"approved: {answer['outcome'].replace('_', ' ')}")


@app.command()
def refuse(
    decision: DecisionId, reason: Reason, state_dir: StateDir = STATE_DIR, promoter_url: PromoterUrl = None
) -> None:
    """Say no to a candidate that waits: it will not become champion. Takes the role approver."""
    asked = promoter(state_dir, promoter_url)
    asked.post(f"/decisions/{asked.decision_id(decision)}/refuse", {"reason": reason})
    _out.print("refused: it will not become champion")


@app.command()
def end_trial(reason: Reason, state_dir: StateDir = STATE_DIR, promoter_url: PromoterUrl = None) -> None:
    """End the trial that is going on; the champion goes on alone. Takes the role admin."""
    entry = promoter(state_dir, promoter_url).post("/trial/end", {"reason": reason})
    _out.print(f"the trial of {named(entry['fact']['challenger'])} has ended; the champion goes on alone")


@app.command()
def models(
    as_of: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When, e.g. 2026-11-28T12:00Z; without a zone, this machine's. Else now."),
    ] = None,
    as_json: AsJson = False,
    state_dir: StateDir = STATE_DIR,
    promoter_url: PromoterUrl = None,
) -> None:
    """Show which model is champion, or was at a time, and since when and why."""
    at = None if as_of is None else parse_time(as_of)
    champion = promoter(state_dir, promoter_url).get("/champion", as_of=None if at is None else at.isoformat())[
        "champion"
    ]
    if as_json:
        print(json.dumps(champion, indent=2))  # noqa: T201  as above
    elif champion is None:
        _out.print("no model was champion then" if at else "no model is champion yet")
    else:
        _out.print(_champion_view(champion))


def parse_version(text: str) -> dict[str, str]:
    """`NAME:VERSION`. Raises `typer.BadParameter`."""
    name, colon, version = text.rpartition(":")
    if not (colon and name and version):
        raise typer.BadParameter(f"{text!r} is not NAME:VERSION, e.g. diabetes_readmission_lightgbm:5")
    return {"name": name, "version": version}


def parse_time(text: str) -> datetime:
    """A moment with its zone; this machine's where it names none. Raises `typer.BadParameter`."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text!r} is no time, e.g. 2026-11-28T12:00Z") from error


def named(model: dict[str, Any] | None) -> str:
    """A model version in a line of text."""
    return "no model" if model is None else f"{model['name']} v{model['version']}"


def rollout_view(found: dict[str, Any]) -> RenderableType:
    """The answer of `GET /rollout` as text."""
    parts: list[RenderableType] = [*_promotion_view(found["promotion"]), *_trial_view(found["trial"])]
    if found["frozen"]:
        parts.append(Text("promotions are frozen: `readmit unfreeze` ends it", style="yellow"))
    parts.append(Text(f"{found['candidates_waiting']} candidates wait to be judged"))
    if unanswered := found["candidates_unanswered"]:
        parts.append(Text(f"{unanswered} candidates wait for a yes or no: `readmit approve` or `readmit refuse`"))
    return Group(*parts)


def _promotion_view(promotion: dict[str, Any] | None) -> list[RenderableType]:
    if promotion is None:
        return [Text("no model was promoted yet")]
    style = {"converged": "green", "failed": "bold red"}.get(promotion["status"], "yellow")
    head = Text.assemble(
        f"epoch {promotion['epoch']}, {promotion['action']} of {named(promotion['model'])}: ",
        (promotion["status"], style), f" - {promotion['why']}" if promotion["why"] else "",
    )  # fmt: skip
    table = Table("pod", "serves it after", "", box=None)
    for pod in promotion["pods"]:
        refused = pod["refused"]
        table.add_row(
            pod["pod_id"], "" if refused else seconds(pod["after_s"]), f"refused: {refused}" if refused else ""
        )
    for pod_id in promotion["missing"]:
        table.add_row(pod_id, "", "has not said anything of it yet")
    times = "  ".join(
        f"{name} {seconds(promotion[f'{name}_s'])}" for name in ("first", "median", "last")
        if promotion[f"{name}_s"] is not None
    )  # fmt: skip
    return [head, *([table] if table.rows else []), *([Text(times)] if times else [])]


def _trial_view(trial: dict[str, Any] | None) -> list[RenderableType]:
    if trial is None:
        return []
    share = f" for {trial['share']:.0%} of the patients" if trial["share"] else ""
    lines = [
        Text(f"on trial: {named(trial['challenger'])}, {trial['stage']}{share}, since {moment(trial['began_at'])}")
    ]
    lines.append(Text(f"  {trial['why']}"))
    lines += [Text(f"  {name.replace('_', ' ')}: {figure(value)}") for name, value in trial["figures"].items()]
    lines += [Text(f"  pod {pod} refuses it: {why}", style="red") for pod, why in trial["refusing"].items()]
    return list(lines)


def _champion_view(champion: dict[str, Any]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    auroc = champion["auroc"]
    rows = {
        "champion": named(champion) + (" (SYNTHETIC)" if champion["synthetic"] else ""),
        "epoch": f"{champion['epoch']}, by {champion['action']}",
        "since": f"{moment(champion['decided_at'])}, decided by {champion['decided_by']}",
        "why": champion["reason"],
        "AUROC": "not kept" if auroc is None else f"{auroc:.4f} on validation patients",
        "bundle": champion["bundle"]["sha256"],
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def figure(value: object) -> str:
    """A measured number in a few digits."""
    if value is None:
        return "none yet"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def seconds(value: float) -> str:
    """A time span."""
    return f"{value:.2f} s"


def moment(text: str) -> str:
    """A moment that REST told, to the second, in this machine's zone."""
    return datetime.fromisoformat(text).astimezone().isoformat(sep=" ", timespec="seconds")


def _watch(asked: Promoter) -> None:
    found = asked.get("/rollout")
    try:
        with Live(rollout_view(found), console=_out, auto_refresh=False) as live:
            while not _is_settled(found):
                time.sleep(_LOOK_EVERY_S)
                found = asked.get("/rollout")
                live.update(rollout_view(found), refresh=True)
    except KeyboardInterrupt:
        return
    finally:
        if not _out.is_terminal:  # there, rich ends the last line itself
            _out.line()
    if found["promotion"]["status"] == "failed":
        raise LocalError(f"epoch {found['promotion']['epoch']} did not reach every pod: {found['promotion']['why']}")


def _is_settled(found: dict[str, Any]) -> bool:
    return found["promotion"] is not None and found["promotion"]["status"] != "converging"
