"""The REST face that changes things: by known people, with a reason; what is denied stands in the ledger too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Body, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from readmit_contracts.prediction import Problem
from readmit_promoter import governor, metrics, store
from readmit_promoter.api import EntryView, entry_view
from readmit_promoter.errors import Forbidden, NotAllowed, NotFound, Unauthorized
from readmit_promoter.governor import Progress
from readmit_promoter.ledger import Entry
from readmit_promoter.roles import Doorkeeper, Role
from readmit_promoter.rollout_policy import RolloutPolicy

log = structlog.get_logger()

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=3, max_length=1000)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_STATUS = {Unauthorized: 401, Forbidden: 403, NotFound: 404, NotAllowed: 409}
_TITLES = {401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 409: "Conflict"}


class Because(BaseModel):
    """Why. It stands in the ledger for good."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[_Text, Field(examples=["alerts doubled on ward 3"])]


class Version(BaseModel):
    """A registered model version."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[_Name, Field(examples=["diabetes_readmission_lightgbm"])]
    version: Annotated[_Name, Field(examples=["5"])]


class RollbackRequest(Because):
    """`to`: a former champion; without it, the one before the present."""

    to: Version | None = None


class Approved(BaseModel):
    """What came of an approval: promoted, or on trial."""

    outcome: Progress


@dataclass(frozen=True, slots=True)
class _Person:
    """Who gives a command, and the transaction that holds the ledger's lock for it."""

    connection: store.Connection
    who: str


class Command:
    """How every command runs: by whom, under the ledger's lock, and written down where it is denied."""

    def __init__(self, pool: store.Pool, doorkeeper: Doorkeeper, changed: Callable[[], None]) -> None:
        """`changed` is called after each command that did something."""
        self._pool = pool
        self._doorkeeper = doorkeeper
        self._changed = changed

    @asynccontextmanager
    async def __call__(self, request: Request, role: Role, name: str, asked: dict[str, Any]) -> AsyncIterator[_Person]:
        """The ledger's lock, for somebody who may. What is denied is written down, and nothing else."""
        try:
            who = self._doorkeeper.person(request, role, name)
        except Forbidden as forbidden:
            async with store.writing(self._pool) as connection:
                denied = NotAllowed("forbidden", forbidden.detail)
                await governor.deny(connection, name, asked, denied, by=forbidden.who)
            metrics.DENIALS.labels("forbidden").inc()
            raise
        problem: NotAllowed | None = None
        async with store.writing(self._pool) as connection:
            try:
                async with connection.transaction():
                    yield _Person(connection, who)
            except NotAllowed as found:
                problem = found
                await governor.deny(connection, name, asked, problem, by=who)
        if problem is not None:
            metrics.DENIALS.labels(problem.code).inc()
            log.warning("command_denied", command=name, by=who, problem=problem.code)
            raise problem
        log.info("command", command=name, by=who)
        self._changed()


def champion_commands(command: Command) -> APIRouter:
    """`/rollback`, `/freeze`, `/unfreeze`, `/trial/end`."""
    router = APIRouter(tags=["commands"], responses=_responses())

    @router.post("/rollback", summary="Go back to a former champion")
    async def post_rollback(request: Request, body: Annotated[RollbackRequest, Body()]) -> EntryView:
        """Every pod serves the former champion within a second: it is still in its memory or on its disk."""
        to = (body.to.name, body.to.version) if body.to else None
        async with command(request, "approver", "rollback", body.model_dump()) as person:
            entry = await governor.roll_back(person.connection, to=to, by=person.who, reason=body.reason)
        return entry_view(entry)

    @router.post("/freeze", summary="Let no candidate become champion")
    async def post_freeze(request: Request, body: Annotated[Because, Body()]) -> EntryView:
        """Candidates wait until somebody unfreezes; a trial under way ends. Rollbacks stay possible."""
        async with command(request, "approver", "freeze", body.model_dump()) as person:
            entry = await governor.freeze(person.connection, by=person.who, reason=body.reason)
        return entry_view(entry)

    @router.post("/unfreeze", summary="Judge and promote again")
    async def post_unfreeze(request: Request, body: Annotated[Because, Body()]) -> EntryView:
        """Candidates that have waited are judged in the order in which they came."""
        async with command(request, "admin", "unfreeze", body.model_dump()) as person:
            entry = await governor.unfreeze(person.connection, by=person.who, reason=body.reason)
        return entry_view(entry)

    @router.post("/trial/end", summary="End the trial that is going on")
    async def post_trial_end(request: Request, body: Annotated[Because, Body()]) -> EntryView:
        """The champion goes on alone."""
        async with command(request, "admin", "end_trial", body.model_dump()) as person:
            if await governor.trial_under_way(person.connection) is None:
                raise NotAllowed("no_trial", "No candidate is on trial.")
            await governor.end_trial(person.connection, passed=False, by=person.who, reason=body.reason, cause=None)
            ended: Entry | None = await store.last_stage(person.connection)
        if ended is None:
            raise LookupError("a trial ended without an entry")
        return entry_view(ended)

    return router


def candidate_commands(command: Command, rollout: RolloutPolicy) -> APIRouter:
    """`/decisions/{id}/approve` and `/refuse`."""
    router = APIRouter(tags=["commands"], responses=_responses())

    @router.post("/decisions/{decision_id}/approve", summary="Say yes to a candidate that waits")
    async def post_approval(request: Request, decision_id: UUID, body: Annotated[Because, Body()]) -> Approved:
        """It is promoted, or goes on trial, as the policy says."""
        asked = body.model_dump() | {"decision_id": str(decision_id)}
        async with command(request, "approver", "approve", asked) as person:
            outcome = await governor.approve(person.connection, decision_id, rollout, by=person.who, reason=body.reason)
        return Approved(outcome=outcome)

    @router.post("/decisions/{decision_id}/refuse", summary="Say no to a candidate that waits")
    async def post_refusal(request: Request, decision_id: UUID, body: Annotated[Because, Body()]) -> EntryView:
        """It will not become champion."""
        asked = body.model_dump() | {"decision_id": str(decision_id)}
        async with command(request, "approver", "refuse", asked) as person:
            entry = await governor.refuse(person.connection, decision_id, by=person.who, reason=body.reason)
        return entry_view(entry)

    return router


def answer_problems(app: FastAPI) -> None:
    """Problem details (RFC 9457) for what a person cannot do."""

    async def answer(_: Request, error: Exception) -> JSONResponse:
        status = _STATUS[type(error)]
        kind = f"urn:readmit:problem:{error.code}" if isinstance(error, NotAllowed) else "about:blank"
        problem = Problem(type=kind, title=_TITLES[status], status=status, detail=str(error))
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
        return JSONResponse(problem.model_dump(mode="json"), status, headers, "application/problem+json")

    for kind in _STATUS:
        app.add_exception_handler(kind, answer)


def _responses() -> dict[int | str, dict[str, Any]]:
    said = {
        401: "No key, or one that is not valid now",
        403: "A role that may not; written down",
        409: "Not possible now; written down",
    }
    return {
        status: {"description": text, "content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
        for status, text in said.items()
    }
