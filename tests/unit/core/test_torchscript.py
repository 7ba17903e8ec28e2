"""TorchScript of every kind of policy does what its ONNX graph does, and refuses what it does not describe."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces

from auxilium_rl.core.torchscript import scripted
from tests.unit.core.test_actor_graph import CASES, ON, VECTOR, trained

FEW = [pytest.param(*case, marks=() if number % 4 == 0 else pytest.mark.long) for number, case in enumerate(CASES)]


@pytest.mark.parametrize(("algorithm", "observation", "action", "hyperparameters", "wishes"), FEW)
def test_it_does_what_the_graph_does(
    algorithm: str, observation: Any, action: Any, hyperparameters: dict[str, Any], wishes: dict[str, Any]
) -> None:
    _, artifact = trained(algorithm, observation, action, hyperparameters, **wishes)
    _compare(artifact)


def test_recurrent_state() -> None:
    kwargs = {"net_arch": [16], "n_lstm_layers": 2, "lstm_hidden_size": 8}
    hyperparameters = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "policy_kwargs": kwargs}
    _, artifact = trained("recurrent_ppo", VECTOR, spaces.Discrete(3), hyperparameters)
    _compare(artifact)


def test_another_graph_is_refused() -> None:
    _, deep = trained("ppo", VECTOR, spaces.Discrete(3), {**ON, "policy_kwargs": {"net_arch": [16, 16]}})
    _, flat = trained("ppo", VECTOR, spaces.Discrete(3), ON)
    with pytest.raises(ValueError, match="which the policy that is described has not"):
        scripted(json.loads(flat.description()), deep.graph())


def _compare(artifact: Any) -> None:
    graph, description = artifact.graph(), json.loads(artifact.description())
    rows = np.random.default_rng(0).uniform(0, 1, (50, artifact._actor.size)).astype(np.float32)
    feeds = {"observation": rows}
    if artifact._actor.state_shape is not None:
        layers, size = artifact._actor.state_shape
        feeds |= {name: np.full((layers, 50, size), 0.1, np.float32) for name in ("hidden", "cell")}
    expected = onnxruntime.InferenceSession(graph).run(None, feeds)
    with torch.no_grad():
        found = scripted(description, graph)(*(torch.from_numpy(value) for value in feeds.values()))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, atol=1e-5)
