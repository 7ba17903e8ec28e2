"""Served artifacts in ONNX Runtime: what ``Act`` answers from."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from auxilium_rl.core.dto import Action, Checkpoint
from auxilium_rl.core.errors import InvalidRequest, ModelCorrupt
from auxilium_rl.core.ports import ModelStore
from auxilium_rl.infra.policy_memory import PolicyMemory, size_of

__all__ = ["OnnxPolicy", "load_policy"]

_READABLE = (1, 2)


class OnnxPolicy:
    """A policy graph; an ``ActionModel``. One thread of its own caller computes; any number may call at once."""

    def __init__(self, graph: bytes, description: dict[str, Any]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        leaves = description["observation_space"]
        self._leaves = leaves if isinstance(leaves, list) else [leaves]  # format 1 had one leaf and no list
        self._action = description["action_space"]
        frames = self._frames = int(description.get("frame_stack", 1))
        self._memory = PolicyMemory.of(description, self._leaves)
        self._checked = list(_whole_numbers(self._leaves, frames))
        self.observation_dim = sum(size_of(leaf) for leaf in self._leaves) // frames
        # One number in, one number out, nothing to remember: the way that most calls take.
        self._plain = self._memory is None and not self._checked and self._action["type"] == "Discrete"
        self._of_thread = threading.local()

    def act(
        self, observation: Sequence[float], state: bytes = b"", mask: Sequence[bool] = (), keys: Sequence[str] = ()
    ) -> Action:
        """The deterministic action for one observation of ``observation_dim`` finite numbers.

        Args:
            state: of the answer before; empty: an episode begins.
            mask: the legal actions; empty: all.
            keys: of a Dict, its leaves in the order given; empty: in the simulator's order.

        Raises:
            InvalidRequest: a number that the observation space does not have, a state of another policy, a mask of the
                wrong length or with no legal action.
        """
        if state or mask or keys or not self._plain:
            return self._any(observation, state, mask, keys)
        try:
            bound: _Bound = self._of_thread.bound
        except AttributeError:
            bound = self._of_thread.bound = _Bound(self._session, self.observation_dim)
        bound.pack(bound.memory, 0, *observation)
        self._session.run_with_iobinding(bound.binding)
        return Action(bound.action.item())

    def _any(self, observation: Sequence[float], state: bytes, mask: Sequence[bool], keys: Sequence[str]) -> Action:
        """Anything but the plain case."""
        values = np.asarray(observation, np.float32)
        if keys:
            values = self._ordered(values, keys)
        for whole in self._checked:
            whole.check(values)
        if self._memory is None:
            if state:
                raise InvalidRequest.of("state", f"{len(state)} bytes given; this policy remembers nothing")
            action, scores = self._session.run(None, {"observation": values[None]})
            return self._answer(action[0], scores[0], mask, b"")
        feeds = self._memory.feeds(values, state)
        action, scores, *rest = self._session.run(None, feeds)
        return self._answer(action[0], scores[0], mask, self._memory.token(feeds["observation"], rest))

    def _ordered(self, values: npt.NDArray[np.float32], keys: Sequence[str]) -> npt.NDArray[np.float32]:
        """The leaves in the simulator's order."""
        counts = {leaf.get("key", ""): size_of(leaf) // self._frames for leaf in self._leaves}
        if sorted(keys) != sorted(counts):
            raise InvalidRequest.of("keys", f"{list(keys)} given; {list(counts)} are accepted, in any order")
        ends = np.cumsum([counts[key] for key in keys])
        parts = dict(zip(keys, np.split(values, ends[:-1]), strict=True))
        return np.concatenate([parts[key] for key in counts])

    def _answer(self, action: Any, scores: npt.NDArray[np.float32], mask: Sequence[bool], state: bytes) -> Action:
        if mask:
            action = _best_legal(scores, self._action, mask)
        if self._action["type"] == "Discrete":
            return Action(int(action), (), state)
        return Action(0, tuple(np.asarray(action, np.float32).ravel().tolist()), state)


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


@dataclass(frozen=True)
class _Whole:
    """A leaf that holds whole numbers within bounds, and where it begins in an observation."""

    key: str
    start: int
    lows: npt.NDArray[np.int64]
    highs: npt.NDArray[np.int64]

    def check(self, values: npt.NDArray[np.float32]) -> None:
        """Raises InvalidRequest."""
        mine = values[self.start : self.start + len(self.lows)]
        wrong = (mine != np.floor(mine)) | (mine < self.lows) | (mine > self.highs)
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            where = f" of '{self.key}'" if self.key else ""
            raise InvalidRequest.of(
                "observation",
                f"value {index}{where} is {mine[index]:g}; "
                f"a whole number from {self.lows[index]} to {self.highs[index]} is accepted",
            )


def _whole_numbers(leaves: Sequence[dict[str, Any]], frames: int) -> Iterator[_Whole]:
    """The leaves that do not hold any float."""
    start = 0
    for leaf in leaves:
        count = size_of(leaf) // frames
        if leaf["type"] != "Box" or "low" in leaf:
            if leaf["type"] == "Discrete":
                highs = [leaf["n"] - 1]
            elif leaf["type"] == "MultiDiscrete":
                highs = [n - 1 for n in leaf["nvec"]]
            else:
                highs = [leaf.get("high", 1)] * count
            yield _Whole(leaf.get("key", ""), start, np.full(count, leaf.get("low", 0)), np.array(highs))
        start += count


def _best_legal(scores: npt.NDArray[np.float32], action: dict[str, Any], mask: Sequence[bool]) -> Any:
    """The best action that a mask allows, as a policy with masks finds it. Raises InvalidRequest."""
    sizes = _mask_sizes(action)
    if len(mask) != sum(sizes):
        raise InvalidRequest.of("action_mask", f"{len(mask)} values given; none or {sum(sizes)} are accepted")
    legal = np.array(mask, bool)
    if action["type"] == "MultiBinary" and len(scores) != len(legal):
        scores = np.stack([-scores, scores], axis=1).ravel()  # of one number for each bit, the two that it stands for
    best, start = [], 0
    for size in sizes:
        part = legal[start : start + size]
        if not part.any():
            raise InvalidRequest.of("action_mask", f"values {start} to {start + size - 1} forbid every action")
        best.append(int(np.where(part, scores[start : start + size], -np.inf).argmax()))
        start += size
    return best[0] if action["type"] == "Discrete" else best


def _mask_sizes(action: dict[str, Any]) -> list[int]:
    if action["type"] == "Discrete":
        return [action["n"]]
    if action["type"] == "MultiDiscrete":
        return list(action["nvec"])
    return [2] * size_of(action) if action["type"] == "MultiBinary" else []


def load_policy(store: ModelStore, checkpoint: Checkpoint) -> OnnxPolicy:
    """Load a checkpoint's artifact, its hashes checked. Raises ModelCorrupt."""
    description = json.loads(store.read(checkpoint, "policy.json"))
    if description.get("format_version") not in _READABLE:
        raise ModelCorrupt(
            f"{checkpoint.path}/policy.json has format_version {description.get('format_version')}; "
            f"this server reads {' and '.join(map(str, _READABLE))}"
        )
    return OnnxPolicy(store.read(checkpoint, "policy.onnx"), description)
