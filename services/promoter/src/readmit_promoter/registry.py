"""MLflow follows the ledger: alias `champion`, tag `stage` and the (deprecated) stage of each candidate's version.

Plain REST, so that no service but the trainer carries the MLflow library. Reads first and writes only what differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import structlog

from readmit_promoter.errors import RegistryError
from readmit_promoter.ledger import Stage, Standing

log = structlog.get_logger()

CHAMPION_ALIAS = "champion"
STAGE_TAG = "stage"


@dataclass(frozen=True, slots=True)
class VersionState:
    """What MLflow says of one version: our tag, and its own stage field."""

    stage_tag: str | None
    stage: str


@dataclass(frozen=True, slots=True)
class ModelState:
    """What MLflow says of one registered model."""

    champion: str | None  #: version that carries the alias
    versions: Mapping[str, VersionState]


class MlflowRegistry:
    """The few calls of MLflow's registry that the mirror needs. All raise `RegistryError`; all are idempotent."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def state(self, name: str) -> ModelState:
        """Alias and versions of a registered model; empty when MLflow does not know it."""
        found = await self._call("GET", "registered-models/get", params={"name": name}, missing={})
        aliases = found.get("registered_model", {}).get("aliases", [])
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
        champion = next((alias["version"] for alias in aliases if alias["alias"] == CHAMPION_ALIAS), None)
        return ModelState(champion, versions)

    async def set_champion(self, name: str, version: str) -> None:
        """Point the alias at this version."""
        body = {"name": name, "alias": CHAMPION_ALIAS, "version": version}
        await self._call("POST", "registered-models/alias", json=body)

    async def remove_champion(self, name: str) -> None:
        """Take the alias off this model."""
        await self._call("DELETE", "registered-models/alias", json={"name": name, "alias": CHAMPION_ALIAS})

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


async def mirror(registry: MlflowRegistry, standings: Sequence[Standing]) -> int:
    """Make MLflow agree with the ledger; returns the number of writes. Raises `RegistryError`: run it again later.

    The champion's alias is set before the others lose theirs: a client never finds none.
    """
    states = {name: await registry.state(name) for name in dict.fromkeys(s.model.name for s in standings)}
    writes = 0
    for standing in sorted(standings, key=lambda standing: standing.stage is not Stage.PRODUCTION):
        name, version, stage = standing.model.name, standing.model.version, standing.stage
        known = states[name].versions.get(version)
        if known is None:
            log.warning("registry_lacks_version", model=name, version=version)
            continue
        if stage is Stage.PRODUCTION and states[name].champion != version:
            await registry.set_champion(name, version)
            writes += 1
        if known.stage_tag != stage:
            await registry.tag_stage(name, version, stage)
            writes += 1
        if known.stage != stage:
            await registry.move_stage(name, version, stage)
            writes += 1
    champions = {standing.model.name for standing in standings if standing.stage is Stage.PRODUCTION}
    for name, state in states.items():
        if state.champion is not None and name not in champions:
            await registry.remove_champion(name)
            writes += 1
    return writes
