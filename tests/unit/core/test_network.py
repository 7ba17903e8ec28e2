"""Which policies say what they compute, for programs without ONNX. (The agent in C++ computes them: test_cpp_agent.)"""

from __future__ import annotations

import json
from typing import Any

import pytest
from gymnasium import spaces

from auxilium_rl.core.dto import Normalize
from tests.unit.core.test_actor_graph import DICT, OFF, ON, PICTURE, VECTOR, trained


@pytest.mark.parametrize(
    ("observation", "action", "wishes"),
    [
        (DICT, spaces.Discrete(3), {}),
        (PICTURE, spaces.Discrete(3), {}),
        (VECTOR, spaces.Discrete(3), {"frame_stack": 2}),
        (VECTOR, spaces.Discrete(3), {"normalize": Normalize(norm_obs=True)}),
    ],
)
def test_what_is_more_than_linear_layers_says_nothing(observation: Any, action: Any, wishes: Any) -> None:
    _, artifact = trained("ppo", observation, action, ON, **wishes)
    assert "network" not in json.loads(artifact.description())


def test_a_policy_of_linear_layers_names_them() -> None:
    _, artifact = trained("sac", VECTOR, spaces.Box(-1, 1, (2,)), OFF)
    told = json.loads(artifact.description())["network"]
    assert [layer["activation"] for layer in told["layers"]] == ["relu", "none"]
    assert (told["features"], told["finish"], told["log_std"]["weight"]) == ("flat", "tanh_unscale", "spread.weight")
    _, artifact = trained("ppo", spaces.Discrete(5), spaces.MultiDiscrete([2, 3]), ON)
    told = json.loads(artifact.description())["network"]
    assert (told["features"], told["finish"]) == ("one_hot", "choose_each")
