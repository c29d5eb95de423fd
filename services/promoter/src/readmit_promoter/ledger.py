"""What the ledger holds: facts, chained by their digests, and how each is written.

An entry's document is canonical JSON, and its digest covers the digest of the entry before: who changes, takes out or
puts in an entry has to change every later one, and whoever kept one later digest sees it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from readmit_contracts.events import (
    ArtifactRef,
    Count,
    ModelRegistered,
    ModelVersion,
    Probability,
    Sha256,
)
from readmit_promoter.announcement import Identity
from readmit_promoter.canonical import canonical
from readmit_promoter.rollout_policy import Action

#: Who decides and announces, where no person does.
SOURCE = "promoter"
#: What stands in the place of a digest before the first entry.
GENESIS = "0" * 64

Stage = Literal["shadow", "canary", "ended"]


class Fact(BaseModel):
    """Base of all that an entry can say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    KIND: ClassVar[str]


class Opponent(BaseModel):
    """The champion that a candidate was judged against."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: Annotated[int, Field(ge=1)]
    model: ModelVersion


class Judgement(Fact):
    """A candidate was judged. `decision`: all that the verdict follows from, and the verdict (`replay.kept`).

    One whose announcement could not be read is judged too, by that alone, and against nobody (`is_unread`).
    """

    KIND: ClassVar[str] = "judgement"

    champion: Opponent | None
    decision: dict[str, Any]

    @property
    def identity(self) -> Identity:
        """Whom it is about."""
        return Identity.model_validate(self.decision["case"]["event"])

    @property
    def is_unread(self) -> bool:
        """Whether the announcement could not be read: no more than the identity is known of the candidate."""
        return "announcement_problems" in self.decision["case"]

    @property
    def candidate(self) -> ModelRegistered:
        """The candidate, as it was announced. Raises ValueError where that could not be read."""
        return ModelRegistered.model_validate(self.decision["case"]["event"])

    @property
    def verdict(self) -> dict[str, Any]:
        """The verdict's document."""
        verdict: dict[str, Any] = self.decision["verdict"]
        return verdict


class Crowned(Fact):
    """A model became champion. `judgement_id`: the entry by which it was accepted."""

    epoch: Annotated[int, Field(ge=1)]
    model: ModelVersion
    bundle: ArtifactRef
    evidence: ArtifactRef
    synthetic: bool
    previous: ModelVersion | None
    judgement_id: UUID


class Promotion(Crowned):
    """A candidate became champion."""

    KIND: ClassVar[str] = "promotion"


class Rollback(Crowned):
    """A former champion became champion again. `restored_epoch`: the last one in which it had been."""

    KIND: ClassVar[str] = "rollback"

    restored_epoch: Annotated[int, Field(ge=1)]


class Freeze(Fact):
    """From now on no candidate becomes champion. Going back stays possible."""

    KIND: ClassVar[str] = "freeze"


class Unfreeze(Fact):
    """Candidates may become champion again."""

    KIND: ClassVar[str] = "unfreeze"


class Approval(Fact):
    """A person says yes to a candidate that waits for one."""

    KIND: ClassVar[str] = "approval"

    judgement_id: UUID


class Refusal(Fact):
    """A person says no to a candidate that waits for one."""

    KIND: ClassVar[str] = "refusal"

    judgement_id: UUID


class RolloutStage(Fact):
    """An accepted candidate enters a stage of its trial beside the champion, or the trial ends.

    `figures`: what was measured in the stage before.
    """

    KIND: ClassVar[str] = "rollout"

    revision: Annotated[int, Field(ge=1)]
    rollout_id: UUID
    stage: Stage
    position: Annotated[int, Field(ge=0, description="of the stage in the policy's list")]
    share: Probability
    challenger: ModelVersion
    bundle: ArtifactRef
    synthetic: bool
    champion_epoch: Annotated[int, Field(ge=1)]
    judgement_id: UUID
    passed: Annotated[bool | None, Field(description="of a trial that has ended")] = None
    figures: dict[str, Any] = {}


class Convergence(Fact):
    """Whether every live pod came to serve a promotion. Times in seconds since it was decided."""

    KIND: ClassVar[str] = "convergence"

    promotion_epoch: Annotated[int, Field(ge=1)]
    converged: bool
    pods: Count
    first_s: Annotated[float, Field(ge=0)] | None
    median_s: Annotated[float, Field(ge=0)] | None
    last_s: Annotated[float, Field(ge=0)] | None
    refused: dict[str, str] = {}
    missing: tuple[str, ...] = ()


class Reaction(Fact):
    """What was done about something that the platform noticed by itself. `request_id`: of the training asked for."""

    KIND: ClassVar[str] = "reaction"

    cause: Annotated[str, Field(description="event type and id")]
    action: Action
    request_id: UUID | None = None


class Denial(Fact):
    """Somebody known asked for what was not done."""

    KIND: ClassVar[str] = "denial"

    command: str
    asked: dict[str, Any]
    problem: str


FACTS: tuple[type[Fact], ...] = (
    Judgement, Promotion, Rollback, Freeze, Unfreeze, Approval, Refusal, RolloutStage, Convergence,
    Reaction, Denial,
)  # fmt: skip
_BY_KIND = {fact.KIND: fact for fact in FACTS}


class Entry(BaseModel):
    """One line of the ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: Annotated[int, Field(ge=1)]
    entry_id: UUID
    at: AwareDatetime
    by: Annotated[str, Field(min_length=1)]
    reason: str
    fact: Fact
    previous_sha256: Sha256
    sha256: Sha256

    @property
    def document(self) -> str:
        """What the digest covers, together with `previous_sha256`."""
        return canonical(
            {
                "sequence": self.sequence,
                "entry_id": str(self.entry_id),
                "kind": self.fact.KIND,
                "at": self.at.astimezone(UTC).isoformat(timespec="microseconds"),
                "by": self.by,
                "reason": self.reason,
                "fact": self.fact.model_dump(mode="json"),
            }
        ).decode()


def digest(previous_sha256: str, document: str) -> str:
    """SHA-256 of the digest before and the document, a line feed between them."""
    return hashlib.sha256(f"{previous_sha256}\n{document}".encode()).hexdigest()


def chained(before: Entry | None, entry_id: UUID, at: datetime, by: str, reason: str, fact: Fact) -> Entry:
    """The next entry after `before`."""
    previous = before.sha256 if before else GENESIS
    draft = Entry(
        sequence=before.sequence + 1 if before else 1, entry_id=entry_id, at=at, by=by, reason=reason, fact=fact,
        previous_sha256=previous, sha256=GENESIS,
    )  # fmt: skip
    return draft.model_copy(update={"sha256": digest(previous, draft.document)})


def read_entry(document: str, previous_sha256: str, sha256: str) -> Entry:
    """The entry that was written. Raises ValueError where it is none."""
    found = json.loads(document)
    fact = _BY_KIND[found.pop("kind")].model_validate(found.pop("fact"))
    return Entry(**found, fact=fact, previous_sha256=previous_sha256, sha256=sha256)


def broken_links(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    """What is wrong with a chain of (document, previous_sha256, sha256), oldest first; empty when nothing is."""
    wrong = []
    expected = GENESIS
    for place, (document, previous, sha256) in enumerate(rows, start=1):
        if previous != expected:
            wrong.append(f"entry {place} does not follow the one before it")
        if digest(previous, document) != sha256:
            wrong.append(f"entry {place} is not what its digest was made of")
        elif json.loads(document)["sequence"] != place:
            wrong.append(f"entry {place} says that it is number {json.loads(document)['sequence']}")
        expected = sha256
    return wrong
