"""MLflow follows the ledger: one suite for the fake and for a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from typing import Any
from uuid import uuid4

import httpx
import pytest

from readmit_contracts.events import ModelVersion
from readmit_promoter.errors import RegistryError
from readmit_promoter.registry import MlflowRegistry, Stage, Standing, VersionState, mirror, standings


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.stack)])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """A client of each registry in turn."""
    if request.param == "fake":
        transport = httpx.MockTransport(request.getfixturevalue("fake_mlflow"))
        opened = httpx.AsyncClient(base_url="http://mlflow", transport=transport)
    else:
        opened = httpx.AsyncClient(base_url=request.getfixturevalue("mlflow_server"), timeout=10)
    async with opened:
        yield opened


class Names:
    """Registered models with two versions each, under names that no other test uses."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._suffix = uuid4().hex[:8]
        self._numbers = count(1)

    async def register(self) -> str:
        name = f"family{next(self._numbers)}_{self._suffix}"
        await self._post("registered-models/create", name=name)
        for _ in range(2):
            await self._post("model-versions/create", name=name, source="s3://bucket/bundles/x")
        return name

    async def _post(self, path: str, **body: Any) -> None:
        (await self._client.post(f"/api/2.0/mlflow/{path}", json=body)).raise_for_status()


@pytest.fixture
def names(client: httpx.AsyncClient) -> Names:
    return Names(client)


def standing(name: str, version: str, stage: Stage) -> Standing:
    return Standing(name, version, stage)


def both(stage: Stage) -> VersionState:
    return VersionState(stage_tag=stage, stage=stage)


async def test_alias_tag_and_stage_follow_a_promotion_from_family_to_family(
    client: httpx.AsyncClient, names: Names
) -> None:
    registry = MlflowRegistry(client)
    first, second = await names.register(), await names.register()

    await mirror(registry, [standing(first, "1", Stage.PRODUCTION), standing(second, "1", Stage.STAGING)])
    assert (await registry.state(first)).aliases == {"champion": "1"}
    assert (await registry.state(first)).versions["1"] == both(Stage.PRODUCTION)
    assert (await registry.state(second)).aliases == {}
    assert (await registry.state(second)).versions["1"] == both(Stage.STAGING)

    after = [standing(first, "1", Stage.ARCHIVED), standing(second, "1", Stage.PRODUCTION)]
    await mirror(registry, after)
    assert (await registry.state(first)).aliases == {}
    assert (await registry.state(first)).versions["1"] == both(Stage.ARCHIVED)
    assert (await registry.state(second)).aliases == {"champion": "1"}
    assert (await registry.state(second)).versions["1"] == both(Stage.PRODUCTION)


async def test_a_version_that_is_not_in_the_ledger_is_left_alone(client: httpx.AsyncClient, names: Names) -> None:
    registry, name = MlflowRegistry(client), await names.register()
    await mirror(registry, [standing(name, "2", Stage.PRODUCTION)])
    assert (await registry.state(name)).versions["1"] == VersionState(stage_tag=None, stage="None")


async def test_a_second_run_writes_nothing(client: httpx.AsyncClient, names: Names) -> None:
    registry, name = MlflowRegistry(client), await names.register()
    wanted = [standing(name, "1", Stage.ARCHIVED), standing(name, "2", Stage.PRODUCTION)]
    assert await mirror(registry, wanted) == 5
    assert await mirror(registry, wanted) == 0


async def test_drift_by_another_hand_is_mended(client: httpx.AsyncClient, names: Names) -> None:
    registry, name = MlflowRegistry(client), await names.register()
    wanted = [standing(name, "1", Stage.ARCHIVED), standing(name, "2", Stage.PRODUCTION)]
    await mirror(registry, wanted)
    await registry.set_alias(name, "1", "champion")
    await registry.move_stage(name, "2", Stage.ARCHIVED)
    assert await mirror(registry, wanted) == 2
    state = await registry.state(name)
    assert (state.aliases, state.versions["2"]) == ({"champion": "2"}, both(Stage.PRODUCTION))


async def test_the_challenger_has_its_alias_as_long_as_it_is_on_trial(client: httpx.AsyncClient, names: Names) -> None:
    registry, name = MlflowRegistry(client), await names.register()
    wanted = [standing(name, "1", Stage.PRODUCTION), standing(name, "2", Stage.STAGING)]
    await mirror(registry, wanted, ModelVersion(name=name, version="2", family="any"))
    assert (await registry.state(name)).aliases == {"champion": "1", "challenger": "2"}
    await mirror(registry, wanted)
    assert (await registry.state(name)).aliases == {"champion": "1"}


def test_there_is_one_champion_however_many_have_been() -> None:
    known = [("a", "1", 1), ("a", "2", 4), ("b", "1", 3), ("b", "2", None)]
    assert [(found.name, found.version, found.stage) for found in standings(known)] == [
        ("a", "1", Stage.ARCHIVED), ("a", "2", Stage.PRODUCTION), ("b", "1", Stage.ARCHIVED), ("b", "2", Stage.STAGING)
    ]  # fmt: skip


async def test_what_mlflow_does_not_know_holds_up_nothing_else(client: httpx.AsyncClient, names: Names) -> None:
    registry, name = MlflowRegistry(client), await names.register()
    lost = [standing("never_registered", "1", Stage.ARCHIVED), standing(name, "99", Stage.ARCHIVED)]
    await mirror(registry, [*lost, standing(name, "1", Stage.PRODUCTION)])
    assert (await registry.state(name)).aliases == {"champion": "1"}


async def test_removing_an_alias_twice_is_no_error(client: httpx.AsyncClient, names: Names) -> None:
    registry, name = MlflowRegistry(client), await names.register()
    await registry.set_alias(name, "1", "champion")
    await registry.remove_alias(name, "champion")
    await registry.remove_alias(name, "champion")
    assert (await registry.state(name)).aliases == {}


async def test_an_answer_that_is_an_error_is_reported_as_one(client: httpx.AsyncClient) -> None:
    with pytest.raises(RegistryError, match="registered-models/alias"):
        await MlflowRegistry(client).set_alias("never_registered", "1", "champion")


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: httpx.Response(500),
        lambda _: httpx.Response(200, text="<html>"),
        lambda request: (_ for _ in ()).throw(httpx.ReadTimeout("slow", request=request)),
    ],
    ids=["500", "not JSON", "timeout"],
)
async def test_an_outage_is_one_kind_of_error(answer: Any) -> None:
    async with httpx.AsyncClient(base_url="http://mlflow", transport=httpx.MockTransport(answer)) as away:
        with pytest.raises(RegistryError):
            await MlflowRegistry(away).state("any")
