"""The promoter that a command asks: of the stack on this machine, or of one elsewhere; and by whose key."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from readmit_local.errors import LocalError
from readmit_local.rest import Refused, call
from readmit_local.state import State

URL_VARIABLE = "READMIT_PROMOTER_URL"
API_KEY_VARIABLE = "READMIT_PROMOTER_API_KEY"
#: What was decided lately: among these a decision may be named by the beginning of its id.
RECENT = 500
_SHORTEST_PREFIX = 4
_SHOWN_OF_ID = 8
_PAGE = 50
_BUSY = "urn:readmit:problem:busy"
_WAIT_IF_BUSY_S = 1.0
_TRIES_IF_BUSY = 60

StateDir = Annotated[Path, typer.Option("--state-dir", help="Where databases, objects, logs and secrets are kept.")]
STATE_DIR = Path(".readmit")
PromoterUrl = Annotated[
    str | None,
    typer.Option(
        "--promoter-url",
        envvar=URL_VARIABLE,
        metavar="URL",
        help=f"A promoter elsewhere; your key for it in the variable {API_KEY_VARIABLE}.",
    ),
]
Reason = Annotated[str, typer.Option(help="Why. It stands in the ledger for good.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@dataclass(frozen=True, slots=True)
class Promoter:
    """One promoter's REST. Each request raises `LocalError` with what was wrong."""

    url: str
    key: str | None = field(default=None, repr=False)

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """GET; parameters that are None are left out."""
        return self._ask("GET", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, document: Any) -> dict[str, Any]:
        """POST of a JSON document."""
        return self._ask("POST", path, json=document)

    def derive(self, path: str, **request: Any) -> dict[str, Any]:
        """POST of what takes the promoter seconds: while others keep it busy, again."""
        for _ in range(_TRIES_IF_BUSY):
            try:
                return self._ask("POST", path, **request)
            except Refused as refused:
                if refused.kind != _BUSY:
                    raise
                time.sleep(_WAIT_IF_BUSY_S)
        raise LocalError(f"the promoter at {self.url} is kept busy by others; try again later")

    def judgements(self) -> Iterator[dict[str, Any]]:
        """Every judgement in the ledger, newest first."""
        before = None
        while page := self.get("/ledger", kind="judgement", limit=_PAGE, before=before)["entries"]:
            yield from page
            before = page[-1]["sequence"]
            if before == 1:
                return

    def decision_id(self, text: str) -> str:
        """The whole id of a decision that is named by its id or the beginning of it."""
        try:
            return str(UUID(text))
        except ValueError:
            pass
        if len(text) < _SHORTEST_PREFIX:
            raise LocalError(f"{text!r} is too short: give at least {_SHORTEST_PREFIX} characters of a decision's id")
        known = [each["decision_id"] for each in self.get("/decisions", limit=RECENT)["decisions"]]
        found = [each for each in known if each.startswith(text.lower())]
        if len(found) > 1:
            raise LocalError(f"{text} is the beginning of {len(found)} decisions: {', '.join(sorted(found))}")
        if not found:
            raise LocalError(
                f"no decision of the last {RECENT} begins with {text}; `readmit decisions list` shows them, and an"
                " older one takes its whole id"
            )
        return str(found[0])

    def _ask(self, method: str, path: str, headers: Mapping[str, str] | None = None, **request: Any) -> dict[str, Any]:
        key = {} if self.key is None else {"X-API-Key": self.key}
        return call("promoter", self.url, method, path, headers={**key, **(headers or {})}, **request)


def promoter(state_dir: Path, url: str | None) -> Promoter:
    """The one at `url`, else of the stack that runs on the state. Raises `LocalError` when nothing runs.

    The state's own key is shown to the state's own promoter alone.
    """
    key = os.environ.get(API_KEY_VARIABLE)
    if url is not None:
        return Promoter(url.rstrip("/"), key)
    state = State(state_dir.resolve())
    return Promoter(state.running_stack()["urls"]["promoter"], key or state.secrets()["promoter/operator"])


def short_ids(ids: Sequence[str]) -> dict[str, str]:
    """Each id's beginning, as long as it takes to tell them apart."""
    length = next(
        (length for length in range(_SHOWN_OF_ID, 36) if len({each[:length] for each in ids}) == len(set(ids))), 36
    )
    return {each: each[:length] for each in ids}
