"""Served artifacts in ONNX Runtime: what ``Act`` answers from."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from auxilium_rl.core.dto import Checkpoint
from auxilium_rl.core.errors import ModelCorrupt
from auxilium_rl.core.ports import ModelStore

__all__ = ["OnnxPolicy", "load_policy"]

_FORMAT_VERSION = 1


class OnnxPolicy:
    """A policy graph; an ``ActionModel``. One thread of its own caller computes; any number may call at once."""

    def __init__(self, graph: bytes, description: dict[str, Any]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.observation_dim: int = description["observation_space"]["shape"][0]
        self._of_thread = threading.local()

    def act(self, observation: Sequence[float]) -> int:
        """The deterministic action for one observation of ``observation_dim`` finite numbers."""
        try:
            bound: _Bound = self._of_thread.bound
        except AttributeError:
            bound = self._of_thread.bound = _Bound(self._session, self.observation_dim)
        bound.pack(bound.memory, 0, *observation)
        self._session.run_with_iobinding(bound.binding)
        return bound.action.item()


class _Bound:
    """Input and output memory that a session keeps for one thread.

    Between two calls of ``Act`` the caches go cold, so what counts is how much code a call touches: memory that stays
    bound takes half of what ``run`` takes, and packing with ``struct`` less than making an array.
    """

    def __init__(self, session: Any, observation_dim: int) -> None:
        observation = np.zeros((1, observation_dim), np.float32)
        self.action: npt.NDArray[np.int64] = np.zeros(1, np.int64)
        self.memory = observation.data.cast("B")
        self.pack = struct.Struct(f"={observation_dim}f").pack_into
        self.binding = session.io_binding()
        self.binding.bind_input("observation", "cpu", 0, np.float32, observation.shape, observation.ctypes.data)
        self.binding.bind_output("action", "cpu", 0, np.int64, self.action.shape, self.action.ctypes.data)


def load_policy(store: ModelStore, checkpoint: Checkpoint) -> OnnxPolicy:
    """Load a checkpoint's artifact, its hashes checked. Raises ModelCorrupt."""
    description = json.loads(store.read(checkpoint, "policy.json"))
    if description.get("format_version") != _FORMAT_VERSION:
        raise ModelCorrupt(
            f"{checkpoint.path}/policy.json has format_version {description.get('format_version')}; "
            f"this server reads {_FORMAT_VERSION}"
        )
    return OnnxPolicy(store.read(checkpoint, "policy.onnx"), description)
