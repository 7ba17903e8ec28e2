"""The policy registry on every database."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from auxilium_rl.core.errors import InvalidRequest, PolicyNotFound, VersionInUse
from auxilium_rl.core.experience.ports import AgentStats
from auxilium_rl.core.policies import Criterion, Episode, NewVersion, PolicyFile, summary
from auxilium_rl.core.states import RunState
from auxilium_rl.infra.sql.agents import SqlAgentRegistry
from auxilium_rl.infra.sql.database import open_database
from auxilium_rl.infra.sql.policies import SqlPolicyRegistry
from auxilium_rl.infra.sql.registry import SqlRunRegistry
from tests.contract.conftest import NOW, create

NEW = NewVersion(
    name="cart",
    run_id="r",
    algorithm="ppo",
    timesteps=0,
    contract_hash="c" * 64,
    path="/p/0",
    manifest_sha256="m" * 64,
    files=(PolicyFile("policy.onnx", 5, "s" * 64),),
    metrics={"rollout/ep_rew_mean": 1.5, "loss": "nan"},
    created_at=NOW,
)


@pytest.fixture
def policies(url: str) -> Iterator[SqlPolicyRegistry]:
    engine = open_database(url)
    yield SqlPolicyRegistry(engine)
    engine.dispose()


def evaluated(value: float, environment: str = "gym:x", **kpis: float) -> object:
    return summary(environment, True, 1, [Episode(value, 10, True, kpis)], NOW)


def test_versions_are_numbered_and_latest_follows(policies: SqlPolicyRegistry) -> None:
    first = policies.publish(NEW)
    assert first is not None
    assert (first.version, first.aliases, first.metrics) == (0, ("latest",), NEW.metrics)
    assert first.created_at == NOW
    second = policies.publish(replace(NEW, timesteps=100, path="/p/1"))
    assert second is not None
    assert second.version == 1
    assert policies.find("cart") == second
    assert policies.find("cart", "0").aliases == ()
    assert [version.version for version in policies.get("cart").versions] == [0, 1]


def test_a_policy_that_begins_with_trained_weights_begins_with_1(policies: SqlPolicyRegistry) -> None:
    published = policies.publish(replace(NEW, timesteps=100))
    assert published is not None
    assert published.version == 1


def test_what_was_published_before_stays_as_it_was(policies: SqlPolicyRegistry) -> None:
    first = policies.publish(NEW)
    again = policies.publish(replace(NEW, path="/p/other", algorithm="a2c"))
    assert again is not None
    assert first is not None
    assert (again.version, again.path, again.algorithm) == (0, "/p/0", "ppo")
    assert len(policies.get("cart").versions) == 1


def test_many_at_once_make_one_version_each(policies: SqlPolicyRegistry) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: policies.publish(replace(NEW, timesteps=n + 1, path=f"/p/{n}")), range(16)))
        same = list(pool.map(lambda n: policies.publish(replace(NEW, name="one", path=f"/q/{n}")), range(16)))
    assert sorted(version.version for version in made if version) == list(range(1, 17))
    assert {version.path for version in same if version} == {policies.find("one").path}


def test_other_spaces_need_another_name(policies: SqlPolicyRegistry) -> None:
    policies.publish(NEW)
    with pytest.raises(InvalidRequest, match=r"policy_name: 'cart' given, .*cccc.*dddd"):
        policies.publish(replace(NEW, timesteps=5, contract_hash="d" * 64))


def test_a_worker_that_lost_its_run_publishes_nothing(policies: SqlPolicyRegistry, registry: SqlRunRegistry) -> None:
    create(registry, RunState.RUNNING)
    assert policies.publish(NEW, epoch=7) is None
    with pytest.raises(PolicyNotFound):
        policies.get("cart")
    assert policies.publish(NEW, epoch=0) is not None


def test_names_compare_by_their_bytes(policies: SqlPolicyRegistry) -> None:
    policies.publish(NEW)
    policies.publish(replace(NEW, name="Cart"))
    with pytest.raises(PolicyNotFound):
        policies.find("CART")
    assert [policy.name for policy in policies.list().policies] in (["Cart", "cart"], ["cart", "Cart"])


def test_aliases(policies: SqlPolicyRegistry) -> None:
    for timesteps in (0, 10, 20):
        policies.publish(replace(NEW, timesteps=timesteps, path=f"/p/{timesteps}"))
    assert policies.set_alias("cart", "prod", 1).aliases == {"latest": 2, "prod": 1}
    assert policies.set_alias("cart", "prod", 1).aliases["prod"] == 1  # again, the same
    assert policies.set_alias("cart", "prod", 0).aliases["prod"] == 0
    assert policies.find("cart", "prod").version == 0
    with pytest.raises(PolicyNotFound, match=r"no version or alias '9'; it has the versions 0, 1, 2 and the aliases"):
        policies.set_alias("cart", "prod", 9)
    with pytest.raises(VersionInUse, match="prod"):
        policies.delete_version("cart", 0)
    policies.delete_alias("cart", "prod")
    with pytest.raises(PolicyNotFound, match="no alias 'prod'"):
        policies.delete_alias("cart", "prod")
    assert policies.delete_version("cart", 0).path == "/p/0"
    with pytest.raises(VersionInUse, match="latest"):
        policies.delete_version("cart", 2)
    published = policies.publish(replace(NEW, timesteps=30))
    assert published is not None
    assert published.version == 3  # 0 is gone for good


def test_what_an_agent_acts_with_stays(policies: SqlPolicyRegistry) -> None:
    for timesteps in (0, 10, 20):
        policies.publish(replace(NEW, timesteps=timesteps))
    agents = SqlAgentRegistry(policies._engine)
    agents.join(NEW.run_id, "robot", "i", "server", 60)
    agents.report(NEW.run_id, "robot", "i", 60, AgentStats(version=1), connected=True)
    with pytest.raises(VersionInUse, match="cart@1 is what the agents robot act with"):
        policies.delete_version("cart", 1)
    policies.delete_version("cart", 0)
    agents.report(NEW.run_id, "robot", "i", 60, AgentStats(), connected=False)
    policies.delete_version("cart", 1)


def test_best_follows_evaluations_on_one_environment(policies: SqlPolicyRegistry) -> None:
    for timesteps in (0, 10, 20):
        policies.publish(replace(NEW, timesteps=timesteps))
    for version, value in ((0, 5.0), (1, 9.0), (2, 7.0)):
        kept = policies.add_evaluation("cart", version, evaluated(value, waste=value))  # type: ignore[arg-type]
        assert kept is not None
        assert kept.id > 0
    assert policies.get("cart").aliases["best"] == 1
    found = policies.get("cart").versions[1].evaluations
    assert [(e.mean_return, e.success_rate, e.kpis, e.created_at) for e in found] == [(9.0, 1.0, {"waste": 9.0}, NOW)]
    changed = policies.update("cart", set_tags={}, remove_tags=(), notes=None, criterion=Criterion("waste", True))
    assert changed.aliases["best"] == 0
    policies.add_evaluation("cart", 0, evaluated(8.0, waste=8.0))  # type: ignore[arg-type] # its newest one counts
    assert policies.get("cart").aliases["best"] == 2
    policies.add_evaluation("cart", 1, evaluated(50.0, "gym:y", waste=50.0))  # type: ignore[arg-type]
    assert policies.get("cart").aliases["best"] == 1  # the only one that was played there
    with pytest.raises(PolicyNotFound):
        policies.add_evaluation("cart", 77, evaluated(1.0))  # type: ignore[arg-type]
    assert policies.add_evaluation("cart", 1, evaluated(1.0), ("0" * 32, 1)) is None  # type: ignore[arg-type]


def test_tags_notes_and_pages(policies: SqlPolicyRegistry) -> None:
    for name in ("a", "b", "c"):
        policies.publish(replace(NEW, name=name))
        policies.update(name, set_tags={"team": "x", "only": name}, remove_tags=(), notes=f"of {name}", criterion=None)
    first = policies.list(page_size=2)
    assert [policy.name for policy in first.policies] == ["a", "b"]
    rest = policies.list(page_size=2, page_token=first.next_page_token)
    assert [policy.name for policy in rest.policies] == ["c"]
    assert rest.next_page_token == ""
    assert [policy.name for policy in policies.list(tags={"team": "x", "only": "b"}).policies] == ["b"]
    changed = policies.update("b", set_tags={"only": "z"}, remove_tags=["team"], notes=None, criterion=None)
    assert (changed.tags, changed.notes) == ({"only": "z"}, "of b")


def test_every_change_is_seen(policies: SqlPolicyRegistry) -> None:
    seen = [policies.change()]

    def rose() -> bool:
        seen.append(policies.change())
        return seen[-1] > seen[-2]

    policies.publish(NEW)
    assert rose()
    assert not rose()
    policies.publish(replace(NEW, timesteps=5))
    assert rose()
    policies.set_alias("cart", "prod", 0)
    assert rose()
    policies.add_evaluation("cart", 0, evaluated(1.0))  # type: ignore[arg-type]
    assert rose()
    policies.delete_alias("cart", "prod")
    assert rose()
    assert policies.delete("cart").name == "cart"
    assert rose()
    with pytest.raises(PolicyNotFound, match="there is no policy 'cart'"):
        policies.get("cart")


def test_times_are_kept_to_the_microsecond(url: str) -> None:
    engine = open_database(url)
    moment = NOW + timedelta(microseconds=123)
    registry = SqlPolicyRegistry(engine, clock=lambda: moment)
    registry.publish(replace(NEW, created_at=moment))
    policy = registry.get("cart")
    assert policy.created_at == policy.updated_at == policy.versions[0].created_at == moment
    engine.dispose()
