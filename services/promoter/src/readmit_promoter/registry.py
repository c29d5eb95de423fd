"""MLflow follows the ledger: aliases `champion` and `challenger`, tag `stage` and the (deprecated) stage of versions.

Plain REST, so that no service but the trainer carries the MLflow library. Reads first and writes only what differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import httpx
import structlog

from readmit_contracts.events import ModelVersion
from readmit_promoter.errors import RegistryError

log = structlog.get_logger()

Alias = Literal["champion", "challenger"]
STAGE_TAG = "stage"


class Stage(StrEnum):
    """MLflow's stages, as the original's clients know them."""

    PRODUCTION = "Production"
    STAGING = "Staging"
    ARCHIVED = "Archived"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one model version stands after all decisions."""

    name: str
    version: str
    stage: Stage


def standings(known: Sequence[tuple[str, str, int | None]]) -> list[Standing]:
    """Champion: Production. Former champions: Archived. Candidates that never were: Staging.

    `known`: name, version, and the newest epoch in which it was champion.
    """
    champion = max((epoch for _, _, epoch in known if epoch is not None), default=None)

    def stage(epoch: int | None) -> Stage:
        if epoch is None:
            return Stage.STAGING
        return Stage.PRODUCTION if epoch == champion else Stage.ARCHIVED

    return [Standing(name, version, stage(epoch)) for name, version, epoch in known]


@dataclass(frozen=True, slots=True)
class VersionState:
    """What MLflow says of one version: our tag, and its own stage field."""

    stage_tag: str | None
    stage: str


@dataclass(frozen=True, slots=True)
class ModelState:
    """What MLflow says of one registered model."""

    aliases: Mapping[str, str]  #: version that carries each
    versions: Mapping[str, VersionState]


class MlflowRegistry:
    """The few calls of MLflow's registry that the mirror needs. All raise `RegistryError`; all are idempotent."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def state(self, name: str) -> ModelState:
        """Alias and versions of a registered model; empty when MLflow does not know it."""
        found = await self._call("GET", "registered-models/get", params={"name": name}, missing={})
        aliases = {alias["alias"]: alias["version"] for alias in found.get("registered_model", {}).get("aliases", [])}
        versions: dict[str, VersionState] = {}
        page: dict[str, str] = {}
        while found:
            answer = await self._call("GET", "model-versions/search", params={"filter": f"name='{name}'", **page})
            for version in answer.get("model_versions", []):
                tags = {tag["key"]: tag.get("value") for tag in version.get("tags", [])}
                versions[version["version"]] = VersionState(tags.get(STAGE_TAG), version.get("current_stage", "None"))
            if not answer.get("next_page_token"):
                break
            page = {"page_token": answer["next_page_token"]}
        return ModelState(aliases, versions)

    async def set_alias(self, name: str, version: str, alias: Alias) -> None:
        """Point the alias at this version."""
        await self._call("POST", "registered-models/alias", json={"name": name, "alias": alias, "version": version})

    async def remove_alias(self, name: str, alias: Alias) -> None:
        """Take the alias off this model."""
        await self._call("DELETE", "registered-models/alias", json={"name": name, "alias": alias})

    async def tag_stage(self, name: str, version: str, stage: Stage) -> None:
        """Set the tag `stage`."""
        body = {"name": name, "version": version, "key": STAGE_TAG, "value": stage}
        await self._call("POST", "model-versions/set-tag", json=body)

    async def move_stage(self, name: str, version: str, stage: Stage) -> None:
        """Set MLflow's own stage, deprecated there, yet what the original's clients look for."""
        body = {"name": name, "version": version, "stage": stage, "archive_existing_versions": False}
        await self._call("POST", "model-versions/transition-stage", json=body)

    async def _call(
        self, method: str, path: str, *, missing: dict[str, Any] | None = None, **request: Any
    ) -> dict[str, Any]:
        try:
            response = await self._client.request(method, f"/api/2.0/mlflow/{path}", **request)
            if response.status_code == httpx.codes.NOT_FOUND and missing is not None:
                return missing
            response.raise_for_status()
            answer: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise RegistryError(f"{path}: {error!r}") from error
        return answer


async def mirror(
    registry: MlflowRegistry, standings: Sequence[Standing], challenger: ModelVersion | None = None
) -> int:
    """Make MLflow agree with the ledger; returns the number of writes. Raises `RegistryError`: run it again later.

    The champion's alias is set before the others lose theirs: a client never finds none. `challenger`: on trial now.
    """
    states = {name: await registry.state(name) for name in dict.fromkeys(s.name for s in standings)}
    writes = 0
    wanted: dict[tuple[str, Alias], str] = {}
    if challenger is not None:
        wanted[challenger.name, "challenger"] = challenger.version
    for standing in sorted(standings, key=lambda standing: standing.stage is not Stage.PRODUCTION):
        name, version, stage = standing.name, standing.version, standing.stage
        known = states[name].versions.get(version)
        if known is None:
            log.warning("registry_lacks_version", model=name, version=version)
            continue
        if stage is Stage.PRODUCTION:
            wanted[name, "champion"] = version
            writes += await _point(registry, states[name], name, version, "champion")
        if known.stage_tag != stage:
            await registry.tag_stage(name, version, stage)
            writes += 1
        if known.stage != stage:
            await registry.move_stage(name, version, stage)
            writes += 1
    for name, state in states.items():
        on_trial = wanted.get((name, "challenger"))
        if on_trial is not None and on_trial in state.versions:
            writes += await _point(registry, state, name, on_trial, "challenger")
        for alias in ("champion", "challenger"):
            if alias in state.aliases and (name, alias) not in wanted:
                await registry.remove_alias(name, alias)
                writes += 1
    return writes


async def _point(registry: MlflowRegistry, state: ModelState, name: str, version: str, alias: Alias) -> int:
    if state.aliases.get(alias) == version:
        return 0
    await registry.set_alias(name, version, alias)
    return 1
