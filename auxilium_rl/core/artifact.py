"""The artifact that is served: ONNX graphs with their description in JSON. Only workers import this.

The graphs are traced once a run; later versions replace only their weights.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from gymnasium import spaces
from onnx import numpy_helper
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, unwrap_vec_wrapper
from torch import nn

from auxilium_rl.core.actor_graph import ActorGraph, CriticGraph
from auxilium_rl.core.lanes import LanePort
from auxilium_rl.core.network import network_of
from auxilium_rl.core.parity import parity_samples
from auxilium_rl.wire.rows import AnySpace
from auxilium_rl.wire.spaces import space_json, spaces_digest
from auxilium_rl.wire.trees import pack

__all__ = ["FORMAT_VERSION", "PolicyArtifact"]

FORMAT_VERSION = 3
_OPSET = 17
_Axes = dict[str, dict[int, str]]
_Ends = tuple[list[str], list[str], _Axes]


class PolicyArtifact:
    """Makes the files of one model that others act with, again and again as it learns.

    Args:
        lanes: of its run; they know the spaces as the simulator has them.
        rebuild: what else, beside spaces and weights, the model could be made of again; JSON values.
    """

    def __init__(self, model: BaseAlgorithm, algorithm: str, lanes: LanePort, rebuild: dict[str, Any]) -> None:
        self._model = model
        self._actor = ActorGraph(model)
        self._critic = CriticGraph(self._actor, model.policy) if CriticGraph.exists(model.policy) else None
        env = model.get_env()
        assert env is not None
        self._scaling: VecNormalize | None = unwrap_vec_wrapper(env, VecNormalize)
        self._algorithm, self._lanes, self._rebuild = algorithm, lanes, rebuild
        self._graphs: dict[str, onnx.ModelProto] = {}

    def files(self) -> dict[str, bytes]:
        """``policy.onnx``, ``policy.json`` and ``parity.npz``; ``critic.onnx`` where the policy has one."""
        files = {
            "policy.onnx": self.graph(),
            "policy.json": self.description().encode(),
            "parity.npz": pack(parity_samples(self._model)),
        }
        if self._critic is not None:
            inputs, axes = ["observation"], {"observation": {0: "n"}, "value": {0: "n"}}
            files["critic.onnx"] = self._filled("critic", self._critic, lambda: (inputs, ["value"], axes))
        return files

    def graph(self) -> bytes:
        """The serialised ONNX model of the actor with the weights of now."""
        return self._filled("actor", self._actor, self._actor_ends)

    def _filled(self, name: str, module: nn.Module, ends: Callable[[], _Ends]) -> bytes:
        if self._scaling is not None:
            self._actor.refresh(self._scaling)
        if name not in self._graphs:
            self._graphs[name] = onnx.load_from_string(self._trace(module, *ends()))
        graph, weights = self._graphs[name], module.state_dict()
        unknown = sorted({initializer.name for initializer in graph.graph.initializer} - set(weights))
        if unknown:
            raise RuntimeError(f"the traced graph holds the weights {unknown}; the policy has {sorted(weights)}")
        for initializer in graph.graph.initializer:
            value: npt.NDArray[Any] = weights[initializer.name].detach().cpu().numpy()
            initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), initializer.name))
        return graph.SerializeToString()

    def description(self) -> str:
        """JSON: spaces, inputs and outputs; what a program needs to act with the graph."""
        env = self._model.get_env()
        assert env is not None
        stack: VecFrameStack | None = unwrap_vec_wrapper(env, VecFrameStack)
        action = self._model.action_space
        described: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "algorithm": self._algorithm,
            "observation_space": [
                {"key": key, **_described(space), **_stacking(stack, key)} for key, space in self._actor.leaves
            ],
            "action_space": _described(action),
            "frame_stack": 1 if stack is None else stack.stacked_obs.n_stack,
            "distribution": self._actor.distribution,
            "critic": self._critic is not None,
            "mask_len": self._lanes.mask_len,
            "native": {
                "observation": space_json(self._lanes.native_observation),
                "action": space_json(self._lanes.native_action),
            },
            "contract_hash": spaces_digest(
                self._lanes.native_observation, self._lanes.native_action, self._lanes.mask_len
            ),
            "rebuild": self._rebuild,
            "input": {
                "name": "observation",
                "shape": [None, self._actor.size],
                "dtype": "float32",
                "meaning": "the values of every leaf, one after another, frames stacked",
            },
            "outputs": {
                "action": {"shape": [None, *_action_shape(action)], "dtype": _action_dtype(action)},
                "scores": {"meaning": "what the action was chosen by", "dtype": "float32"},
            },
        }
        if self._actor.distribution == "epsilon_greedy":
            described["exploration_rate"] = float(self._model.exploration_rate)  # type: ignore[attr-defined]
        noise: Any = getattr(self._model, "action_noise", None)
        noise = getattr(noise, "base_noise", noise)  # of several lanes
        if isinstance(noise, NormalActionNoise):
            described["noise"] = float(noise._sigma[0])
        if "log_std" in self._actor_ends()[1]:
            described["outputs"]["log_std"] = {"shape": [None, *_action_shape(action)], "dtype": "float32"}
        network = network_of(self._actor) if stack is None else None
        if network is not None:
            described["network"] = network
        if self._actor.state_shape is not None:
            layers, size = self._actor.state_shape
            described["state"] = {"inputs": ["hidden", "cell"], "shape": [layers, None, size], "dtype": "float32"}
        return json.dumps(described, indent=1)

    def _actor_ends(self) -> _Ends:
        """Names of the actor's inputs and outputs, and which of their axes is the number of observations."""
        inputs, outputs = ["observation"], ["action", "scores"]
        if self._actor.distribution in {"gaussian", "squashed_gaussian"}:
            outputs.append("log_std")
        axes = {name: {0: "n"} for name in (*inputs, *outputs)}
        if self._actor.state_shape is not None:
            inputs, outputs = [*inputs, "hidden", "cell"], [*outputs, "new_hidden", "new_cell"]
            axes |= {name: {1: "n"} for name in ("hidden", "cell", "new_hidden", "new_cell")}
        return inputs, outputs, axes

    def _trace(self, module: nn.Module, inputs: list[str], outputs: list[str], axes: _Axes) -> bytes:
        target = io.BytesIO()
        # The tracer merges weights that are equal, as all biases are at first; in the copy no two are.
        traced = copy.deepcopy(module).eval()
        for number, tensor in enumerate([*traced.parameters(), *traced.buffers()]):
            if tensor.is_floating_point():
                tensor.data = torch.full_like(tensor, float(number + 1))
        example: tuple[torch.Tensor, ...] = (torch.zeros((1, self._actor.size), dtype=torch.float32),)
        if self._actor.state_shape is not None:
            layers, size = self._actor.state_shape
            example += (torch.zeros((layers, 1, size)), torch.zeros((layers, 1, size)))
        with warnings.catch_warnings():
            # The tracer is deprecated in favour of torch.export, which takes 2 s where this takes 60 ms.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                traced,
                example,
                target,  # type: ignore[arg-type] # a buffer is accepted when dynamo is False
                dynamo=False,
                opset_version=_OPSET,
                do_constant_folding=False,
                input_names=inputs,
                output_names=outputs,
                dynamic_axes=axes,
            )
        return target.getvalue()


def _described(space: AnySpace) -> dict[str, Any]:
    """A space that is no Dict, as JSON values."""
    told: dict[str, Any] = {"type": type(space).__name__, "shape": list(space.shape or ()), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Discrete):
        told |= {"n": int(space.n), "start": 0}
    elif isinstance(space, spaces.MultiDiscrete):
        told |= {"nvec": space.nvec.tolist()}
    elif isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind in "iu":
        told |= {"low": int(space.low.min()), "high": int(space.high.max())}
    return told


def _stacking(stack: VecFrameStack | None, key: str) -> dict[str, int]:
    """Along which axis of a leaf frames lie, and how many there are."""
    if stack is None:
        return {}
    stacked: Any = stack.stacked_obs
    return {"stack_axis": (stacked.sub_stacked_observations[key] if key else stacked).repeat_axis}


def _action_shape(action: AnySpace) -> list[int]:
    return [] if isinstance(action, spaces.Discrete) else list(action.shape or ())


def _action_dtype(action: AnySpace) -> str:
    return "float32" if isinstance(action, spaces.Box) else "int64"
