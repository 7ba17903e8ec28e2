"""The artifact that is served: an ONNX graph with its description in JSON. Only workers import this.

The graph is traced once a run; later versions replace only its weights.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.dqn.policies import DQNPolicy

__all__ = ["FORMAT_VERSION", "PolicyArtifact"]

FORMAT_VERSION = 1
_OPSET = 17


class _GreedyActor(torch.nn.Module):
    """Observation ``(n, dim)`` float32 → deterministic action ``(n,)`` int64 and the scores it is the argmax of.

    Built of the policy's own modules, so that the names of the weights are the names in the policy.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        if isinstance(policy, DQNPolicy):
            layers = [policy.q_net.features_extractor, policy.q_net.q_net]
        else:
            layers = [policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net]
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.layers(observation)
        return scores.argmax(dim=1), scores


class PolicyArtifact:
    """Makes ``policy.onnx`` and ``policy.json`` of one model, again and again as it learns."""

    def __init__(self, model: BaseAlgorithm, algorithm: str) -> None:
        self._model = model
        self._actor = _GreedyActor(model.policy)
        self._algorithm = algorithm
        self._graph: onnx.ModelProto | None = None

    def graph(self) -> bytes:
        """The serialised ONNX model with the weights of now."""
        if self._graph is None:
            self._graph = onnx.load_from_string(self._trace())
        weights = self._actor.state_dict()
        names = [initializer.name for initializer in self._graph.graph.initializer]
        if sorted(names) != sorted(weights):
            raise RuntimeError(f"the traced graph holds the weights {sorted(names)}, the policy {sorted(weights)}")
        for initializer in self._graph.graph.initializer:
            value: npt.NDArray[Any] = weights[initializer.name].detach().cpu().numpy()
            initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), initializer.name))
        return self._graph.SerializeToString()

    def description(self) -> str:
        """JSON: spaces, preprocessing, inputs and outputs; what a program needs to act with the graph."""
        observation, action = self._model.observation_space, self._model.action_space
        return json.dumps(
            {
                "format_version": FORMAT_VERSION,
                "algorithm": self._algorithm,
                "observation_space": {"type": "Box", "shape": list(observation.shape or ()), "dtype": "float32"},
                "action_space": {"type": "Discrete", "n": int(action.n), "start": 0},  # type: ignore[attr-defined]
                "preprocessing": [],
                "input": {"name": "observation", "shape": [None, *(observation.shape or ())], "dtype": "float32"},
                "outputs": {
                    "action": {"shape": [None], "dtype": "int64", "meaning": "deterministic action"},
                    "scores": {"shape": [None, int(action.n)], "dtype": "float32"},  # type: ignore[attr-defined]
                },
            },
            indent=1,
        )

    def _trace(self) -> bytes:
        target = io.BytesIO()
        # The tracer merges weights that are equal, as all biases are at first; in the copy no two are.
        actor = copy.deepcopy(self._actor)
        for number, parameter in enumerate(actor.parameters()):
            parameter.data = torch.full_like(parameter, float(number + 1))
        example = torch.zeros((1, *(self._model.observation_space.shape or ())), dtype=torch.float32)
        with warnings.catch_warnings():
            # The tracer is deprecated in favour of torch.export, which takes 2 s where this takes 60 ms.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                actor,
                (example,),
                target,  # type: ignore[arg-type] # a buffer is accepted when dynamo is False
                dynamo=False,
                opset_version=_OPSET,
                do_constant_folding=False,
                input_names=["observation"],
                output_names=["action", "scores"],
                dynamic_axes={"observation": {0: "n"}, "action": {0: "n"}, "scores": {0: "n"}},
            )
        return target.getvalue()
