"""How many users there are at which second, by name: `original`, `steps`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """So many users, joining at this rate, for so long."""

    users: int
    per_second: float
    seconds: float


#: The test of the platform that Readmit replaces, and what comes after: 50, 100, … 500 users.
SHAPES: dict[str, tuple[Stage, ...]] = {
    "original": (Stage(50, 5, 120),),
    "steps": tuple(Stage(users, 50, 30) for users in range(50, 501, 50)),
}


def stage_at(shape: str, second: float, stage_seconds: float | None = None) -> Stage | None:
    """The stage that this second belongs to; None after the last one. `stage_seconds` replaces every stage's own."""
    ends = 0.0
    for stage in SHAPES[shape]:
        ends += stage.seconds if stage_seconds is None else stage_seconds
        if second < ends:
            return stage
    return None
