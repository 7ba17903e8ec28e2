"""What a start means, and what is refused about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from auxilium_rl.core.dto import EnvironmentSource, EnvironmentSpec
from auxilium_rl.core.errors import InvalidRequest
from auxilium_rl.core.requests import RequestDefaults, StartRequest, build_spec, gym_ids_in
from auxilium_rl.core.sources import SourceDefaults

DEFAULTS = RequestDefaults(SourceDefaults(EnvironmentSpec(4, 2, 0, (), 500), "fake", "127.0.0.1:50062"), 10_000)
TEXT = StartRequest("ppo", "experiment", 1000, None, {}, text=True)
TYPED = StartRequest("ppo", "experiment", 1000, 5, {}, environment=EnvironmentSource("gym:CartPole-v1"))


def built(request: StartRequest, negotiated: EnvironmentSpec | None = None) -> Any:
    return build_spec(request, DEFAULTS, negotiated, lambda path: f"/root/{path}.zip")


def refused(request: StartRequest) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        built(request)
    return {violation.field: violation.description for violation in caught.value.violations}


def test_a_text_map_carries_what_has_no_field() -> None:
    given = {"gym_ids": "a;b", "n_envs": "2", "total_timesteps": "77", "seed": "0", "checkpoint_freq": "33"}
    spec = built(replace(TEXT, total_timesteps=0, hyperparameters=given))
    assert (spec.total_timesteps, spec.seed, spec.checkpoint_freq) == (77, 0, 33)
    assert spec.environment == EnvironmentSource("grpc://127.0.0.1:50062", 2, ("a", "b"), 4, 2, 500)


def test_a_negotiated_spec_gives_the_shape() -> None:
    request = replace(TEXT, hyperparameters={"gym_ids": "a"})
    spec = built(request, EnvironmentSpec(9, 5, 0, (), 0))
    assert (spec.environment.observation_dim, spec.environment.action_dim) == (9, 5)


def test_what_is_not_said_comes_from_the_defaults() -> None:
    spec = built(TEXT)
    assert spec.environment.uri == "fake"
    assert spec.checkpoint_freq == 10_000
    assert spec.hyperparameters["n_steps"] == 2048
    free = replace(TYPED, seed=None)
    assert built(free).seed != built(free).seed  # one is drawn


@pytest.mark.parametrize(
    ("given", "field", "says"),
    [
        ({"total_timesteps": "999"}, "total_timesteps", "1000 given, but hyperparameters.total_timesteps says 999"),
        ({"checkpoint_freq": "-1"}, "checkpoint_freq", "-1 given"),
        ({"n_envs": "many"}, "hyperparameters.n_envs", "'many' given; a whole number"),
        ({"n_envs": "0"}, "hyperparameters.n_envs", "0 given; at least 1"),
        ({"gym_ids": "a;b", "n_envs": "3"}, "n_envs", "3 given, but 2 gym ids"),
        ({"gym_ids": "a;a"}, "hyperparameters.gym_ids", "'a' comes 2 times"),
        ({"gym_ids": "a;;b"}, "hyperparameters.gym_ids", "name 1 of 3 is empty"),
        ({"seed": "-3"}, "seed", "-3 given"),
        ({"gama": "0.9"}, "hyperparameters.gama", "gamma"),
    ],
)
def test_a_wrong_map(given: dict[str, str], field: str, says: str) -> None:
    found = refused(replace(TEXT, hyperparameters=given))
    assert says in found[field]


def test_every_fault_is_told_at_once() -> None:
    request = replace(
        TYPED, algorithm="pqo", experiment_id=" ", total_timesteps=0, environment=EnvironmentSource("module:os")
    )
    assert {"algorithm", "experiment_id", "total_timesteps"} <= refused(request).keys()
    assert any("module:os" in text for text in refused(request).values())


def test_what_is_owed_a_close_when_a_start_is_refused() -> None:
    assert gym_ids_in(replace(TEXT, hyperparameters={"gym_ids": "a;;b;a; "})) == ("a", "b")
    assert gym_ids_in(TEXT) == ()
