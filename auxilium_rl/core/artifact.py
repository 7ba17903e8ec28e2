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
from gymnasium import spaces
from onnx import numpy_helper
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, unwrap_vec_wrapper

from auxilium_rl.core.actor_graph import ActorGraph
from auxilium_rl.wire.rows import AnySpace

__all__ = ["FORMAT_VERSION", "PolicyArtifact"]

FORMAT_VERSION = 2
_OPSET = 17


class PolicyArtifact:
    """Makes ``policy.onnx`` and ``policy.json`` of one model, again and again as it learns."""

    def __init__(self, model: BaseAlgorithm, algorithm: str) -> None:
        self._model = model
        self._actor = ActorGraph(model)
        env = model.get_env()
        assert env is not None
        self._scaling: VecNormalize | None = unwrap_vec_wrapper(env, VecNormalize)
        self._algorithm = algorithm
        self._graph: onnx.ModelProto | None = None

    def graph(self) -> bytes:
        """The serialised ONNX model with the weights of now."""
        if self._scaling is not None:
            self._actor.refresh(self._scaling)
        if self._graph is None:
            self._graph = onnx.load_from_string(self._trace())
        weights = self._actor.state_dict()
        unknown = sorted({initializer.name for initializer in self._graph.graph.initializer} - set(weights))
        if unknown:
            raise RuntimeError(f"the traced graph holds the weights {unknown}; the policy has {sorted(weights)}")
        for initializer in self._graph.graph.initializer:
            value: npt.NDArray[Any] = weights[initializer.name].detach().cpu().numpy()
            initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), initializer.name))
        return self._graph.SerializeToString()

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
        if self._actor.state_shape is not None:
            layers, size = self._actor.state_shape
            described["state"] = {"inputs": ["hidden", "cell"], "shape": [layers, None, size], "dtype": "float32"}
        return json.dumps(described, indent=1)

    def _trace(self) -> bytes:
        target = io.BytesIO()
        # The tracer merges weights that are equal, as all biases are at first; in the copy no two are.
        actor = copy.deepcopy(self._actor).eval()
        for number, tensor in enumerate([*actor.parameters(), *actor.buffers()]):
            if tensor.is_floating_point():
                tensor.data = torch.full_like(tensor, float(number + 1))
        example: tuple[torch.Tensor, ...] = (torch.zeros((1, actor.size), dtype=torch.float32),)
        inputs, outputs = ["observation"], ["action", "scores"]
        axes = {"observation": {0: "n"}, "action": {0: "n"}, "scores": {0: "n"}}
        if actor.state_shape is not None:
            layers, size = actor.state_shape
            example += (torch.zeros((layers, 1, size)), torch.zeros((layers, 1, size)))
            inputs += ["hidden", "cell"]
            outputs += ["new_hidden", "new_cell"]
            axes |= {name: {1: "n"} for name in ("hidden", "cell", "new_hidden", "new_cell")}
        with warnings.catch_warnings():
            # The tracer is deprecated in favour of torch.export, which takes 2 s where this takes 60 ms.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                actor,
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
