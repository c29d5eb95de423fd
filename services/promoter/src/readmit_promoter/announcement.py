"""What a candidate's announcement says: whom it is about is read first, so that one that cannot be read is refused."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from readmit_contracts.events import ModelRegistered, ModelVersion

#: Short enough for an index of the database, and nothing that it cannot store.
_Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
_LONGEST_VALUE = 60
_SCHEMA = ModelRegistered.model_json_schema()


class Identity(BaseModel):
    """Which candidate an announcement is about."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: ModelVersion
    dataset_version: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]


class _Named(ModelVersion):
    name: _Name
    version: _Name
    family: _Name


class Announcement(Identity):
    """`model.registered` of which no more is known than whom it is about; the rest is kept as it came."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: _Named

    def read(self) -> ModelRegistered | tuple[AnnouncementProblem, ...]:
        """The whole event, or what is wrong with it."""
        try:
            return ModelRegistered.model_validate(self.model_dump())
        except ValidationError as error:
            return tuple(
                AnnouncementProblem(
                    field=".".join(map(str, problem["loc"])),
                    value="missing" if problem["type"] == "missing" else _shown(problem["input"]),
                    allowed=_range(problem["loc"]) or problem["msg"].removeprefix("Input should be "),
                )
                for problem in error.errors(include_url=False)
            )


class AnnouncementProblem(BaseModel):
    """A field that cannot be used: its value as JSON, shortened, and what is allowed there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: str
    value: str
    allowed: str


def _shown(value: Any) -> str:
    """What is no single value is not shown: nobody knows what it holds."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)  # NaN and Infinity as they came
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _range(place: tuple[str | int, ...]) -> str | None:
    """The range of a number at a place of the event; None where there is none of two ends."""
    found: Any = _SCHEMA
    for step in place:
        found = _resolved(found).get("properties", {}).get(str(step), {})
    found = _resolved(found)
    if {"minimum", "maximum"} <= set(found):
        return f"a number from {found['minimum']:g} to {found['maximum']:g}"
    return None


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Through a reference, and past "or null"."""
    if "anyOf" in schema:
        schema = next(one for one in schema["anyOf"] if one.get("type") != "null")
    if "$ref" in schema:
        found: dict[str, Any] = _SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema
