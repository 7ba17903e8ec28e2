"""Served artifacts in ONNX Runtime: what everybody acts with."""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from auxilium_rl.inference.batches import MODE, Acted, Action, ActRequest, FlatBatch, FlatWish
from auxilium_rl.inference.distributions import Categorical, Gaussian
from auxilium_rl.inference.graph import Graph, open_session
from auxilium_rl.inference.memory import PolicyMemory, size_of
from auxilium_rl.inference.refused import Refused, Unfit

if TYPE_CHECKING:
    from auxilium_rl.inference.codec import PolicyCodec

__all__ = ["MAX_BATCH", "OnnxPolicy"]

MAX_BATCH = 4096
Floats = npt.NDArray[np.float32]


class OnnxPolicy:
    """A policy graph; an ``ActionModel``. The caller's thread computes; any number may call at once.

    Attributes:
        session: of ONNX Runtime, which computes.

    Args:
        graph: ``policy.onnx``.
        description: ``policy.json``.
        critic: gives ``critic.onnx`` when somebody asks for values; None: the policy has none.
        most: rows of several callers that are computed together.
    """

    def __init__(
        self,
        graph: bytes,
        description: dict[str, Any],
        critic: Callable[[], bytes] | None = None,
        most: int = MAX_BATCH,
    ) -> None:
        self.description = description
        leaves = description["observation_space"]
        self._leaves = leaves if isinstance(leaves, list) else [leaves]  # format 1 had one leaf and no list
        self._action = description["action_space"]
        frames = self._frames = int(description.get("frame_stack", 1))
        self._memory = PolicyMemory.of(description, self._leaves)
        self._checked = list(_whole_numbers(self._leaves, frames))
        self.observation_dim = sum(size_of(leaf) for leaf in self._leaves) // frames
        self.remembers = self._memory is not None
        self.size = len(graph)
        self._distribution = description.get("distribution", "none")
        self._gaussian = self._distribution in {"gaussian", "squashed_gaussian"}
        self._outputs = ["action", "scores", *(["log_std"] if self._gaussian else [])]
        self.session: Any = open_session(graph)
        self._graph = Graph(self.session, self._outputs, most)
        self._most = most
        self._critic_bytes, self._critic_lock = critic, threading.Lock()
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
            Refused: a number that the observation space does not have, a state of another policy, a mask of the
                wrong length or with no legal action.
        """
        if state or mask or keys or not self._plain or not self._graph.enter():
            return self._any(observation, state, mask, keys)
        try:
            bound = self._bound()
            bound.pack(bound.memory, 0, *observation)
            self.session.run_with_iobinding(bound.binding)
            return Action(bound.action.item())
        finally:
            self._graph.leave()

    def act_flat(self, batch: FlatBatch, wish: FlatWish = MODE) -> Acted:
        """Actions for rows of observations, counted from 0 where they are whole numbers. See ``ActionModel``."""
        rows = batch.rows
        for leaf in self._checked:
            leaf.check_rows(rows)
        masks = batch.masks
        if masks is not None and self._action["type"] == "Box":
            raise Refused("action_mask", f"{masks.shape[1]} values given; this policy takes no mask")
        outputs, states = self._computed(rows, batch.states)
        actions, log_probs, logits = self._chosen(outputs, masks, wish)
        probabilities: Floats | None = None
        if wish.with_probabilities:
            if logits is None:
                raise Refused("with_probabilities", "true given; actions of a Box have none")
            probabilities = self._categorical.probabilities(logits)
        values = self._values(batch) if wish.with_values else None
        return Acted(actions, states, values, log_probs, probabilities)

    def act_rows(self, request: ActRequest) -> tuple[bytes, Acted]:
        """Actions for observations as the simulator sends them. See ``ActionModel``."""
        codec = self._codec
        if 0 <= request.count <= 1 and request.wish is MODE and codec.plain and not (request.masks or request.states):
            slab = self._one(request, codec)
            if slab:
                return slab, _NOTHING_ELSE
        acted = self.act_flat(codec.batch(request), request.wish)
        return codec.slab(acted.actions), acted

    def _one(self, request: ActRequest, codec: PolicyCodec) -> bytes:
        """The way that most requests take; empty: another way can, or says what is wrong."""
        bound = self._bound()
        slabs, hashed = request.slabs, request.contract_hash
        if len(slabs) != 1 or len(slabs[0]) != bound.size or (hashed and hashed != codec.contract_hash):
            return b""
        if not math.isfinite(sum(bound.unpack(slabs[0]))) or not self._graph.enter():
            return b""
        try:
            bound.memory[:] = slabs[0]
            self.session.run_with_iobinding(bound.binding)
            return (bound.action.item() + codec.start).to_bytes(8, "little", signed=True)
        finally:
            self._graph.leave()

    def _bound(self) -> _Bound:
        """The memory of the calling thread."""
        try:
            bound: _Bound = self._of_thread.bound
        except AttributeError:
            bound = self._of_thread.bound = _Bound(self.session, self.observation_dim)
        return bound

    @cached_property
    def _codec(self) -> PolicyCodec:
        from auxilium_rl.inference.codec import PolicyCodec  # Gymnasium takes 0.1 s to import

        if "native" not in self.description:
            raise Unfit("this model was made by an earlier release and acts through policy_trainer only")
        return PolicyCodec(self.description, self._most)

    @property
    def is_continuous(self) -> bool:
        """Whether actions are numbers of a Box."""
        return bool(self._action["type"] == "Box")

    def first_actions(self, rows: Floats) -> tuple[npt.NDArray[Any], Floats]:
        """Deterministic actions and scores where episodes begin, for rows with frames stacked already."""
        feeds = {"observation": rows}
        if "state" in self.description:
            layers, _, size = self.description["state"]["shape"]
            feeds |= {name: np.zeros((layers, len(rows), size), np.float32) for name in ("hidden", "cell")}
        action, scores = self.session.run(["action", "scores"], feeds)
        return action, scores

    def _computed(self, rows: Floats, states: Sequence[bytes]) -> tuple[list[npt.NDArray[Any]], list[bytes]]:
        if self._memory is None:
            if any(states):
                raise Refused("state", f"{len(states[0])} bytes given; this policy remembers nothing")
            return self._graph.run(rows), []
        feeds = self._memory.feeds(rows, states)
        if self._memory.recurrent:
            outputs = self.session.run(None, feeds)
            outputs, rest = outputs[: len(self._outputs)], outputs[len(self._outputs) :]
        else:
            outputs, rest = self._graph.run(feeds["observation"]), []
        return outputs, self._memory.tokens(feeds["observation"], rest)

    def _chosen(
        self, outputs: list[npt.NDArray[Any]], masks: npt.NDArray[np.bool_] | None, wish: FlatWish
    ) -> tuple[npt.NDArray[Any], Floats | None, Floats | None]:
        """Actions, their log-probabilities where these are wished, and the logits of discrete actions."""
        action, scores = outputs[0], outputs[1]
        sampled = not wish.deterministic
        if self._action["type"] == "Box":
            return (*self._continuous(action, scores, outputs, wish), None)
        logits = self._categorical.logits(scores, masks)
        if sampled:
            action = self._categorical.sample(logits, _rng(wish.seed))
        elif masks is not None:
            action = self._categorical.best(logits)
        return action, self._categorical.log_prob(logits, action) if wish.with_log_probs else None, logits

    def _continuous(
        self, action: Floats, mean: Floats, outputs: list[npt.NDArray[Any]], wish: FlatWish
    ) -> tuple[Floats, Floats | None]:
        if not self._gaussian:
            trained_with = self.description.get("rebuild", {}).get("hyperparameters", {})
            if not wish.deterministic and trained_with.get("use_sde"):
                raise Refused("deterministic", "false given; policies trained with use_sde are not sampled")
            if wish.with_log_probs:
                raise Refused("with_log_probs", "true given; this policy has no probabilities")
            return action, None
        if not wish.deterministic:
            drawn, log_probs = self._normal.sample(mean, outputs[2], _rng(wish.seed))
            return drawn, log_probs if wish.with_log_probs else None
        return action, self._normal.log_prob_of_mode(mean, outputs[2]) if wish.with_log_probs else None

    def _values(self, batch: FlatBatch) -> Floats:
        if self._critic_bytes is None:
            raise Refused("with_values", "true given; this policy has no critic of single observations")
        rows = batch.rows
        if self._memory is not None:
            rows = self._memory.feeds(rows, batch.states)["observation"]
        values: Floats = self._critic.run(["value"], {"observation": rows})[0]
        return values

    @cached_property
    def _categorical(self) -> Categorical:
        """A mask is obeyed by every policy with discrete actions."""
        greedy = self._distribution == "epsilon_greedy"
        return Categorical(self._action, self.description.get("exploration_rate", 0.0) if greedy else None)

    @cached_property
    def _normal(self) -> Gaussian:
        from auxilium_rl.wire.spaces import space_from_json

        box: Any = space_from_json(self.description["native"]["action"], "action")
        low, high = box.low.astype(np.float32), box.high.astype(np.float32)
        return Gaussian(low, high, self._distribution == "squashed_gaussian")

    @property
    def _critic(self) -> Any:
        with self._critic_lock:
            if not hasattr(self, "_critic_session"):
                assert self._critic_bytes is not None
                self._critic_session = open_session(self._critic_bytes())
            return self._critic_session

    def _any(self, observation: Sequence[float], state: bytes, mask: Sequence[bool], keys: Sequence[str]) -> Action:
        """Anything but the plain case."""
        values = np.asarray(observation, np.float32)
        if keys:
            values = self._ordered(values, keys)
        masks = np.array([mask], bool) if mask else None
        acted = self.act_flat(FlatBatch(values[None], [state], masks))
        token = acted.states[0] if acted.states else b""
        if self._action["type"] == "Discrete":
            return Action(int(acted.actions[0]), (), token)
        return Action(0, tuple(np.asarray(acted.actions[0], np.float32).ravel().tolist()), token)

    def _ordered(self, values: Floats, keys: Sequence[str]) -> Floats:
        """The leaves in the simulator's order."""
        counts = {leaf.get("key", ""): size_of(leaf) // self._frames for leaf in self._leaves}
        if sorted(keys) != sorted(counts):
            raise Refused("keys", f"{list(keys)} given; {list(counts)} are accepted, in any order")
        ends = np.cumsum([counts[key] for key in keys])
        parts = dict(zip(keys, np.split(values, ends[:-1]), strict=True))
        return np.concatenate([parts[key] for key in counts])


_NOTHING_ELSE = Acted(np.empty(0, np.int64))


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed or None)


class _Bound:
    """Input and output memory that a session keeps for one thread.

    Between two calls of ``Act`` the caches go cold, so what counts is how much code a call touches: memory that stays
    bound takes half of what ``run`` takes, and packing with ``struct`` less than making an array.
    """

    def __init__(self, session: Any, observation_dim: int) -> None:
        observation = np.zeros((1, observation_dim), np.float32)
        self.action: npt.NDArray[np.int64] = np.zeros(1, np.int64)
        self.memory = observation.data.cast("B")
        packing = struct.Struct(f"={observation_dim}f")
        self.pack, self.unpack, self.size = packing.pack_into, packing.unpack, packing.size
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

    def check_rows(self, rows: Floats) -> None:
        """Raises Refused."""
        mine = rows[:, self.start : self.start + len(self.lows)]
        wrong = (mine != np.floor(mine)) | (mine < self.lows) | (mine > self.highs)
        if wrong.any():
            row, index = (int(where) for where in np.argwhere(wrong)[0])
            where = f" of '{self.key}'" if self.key else ""
            of_row = f" in row {row}" if len(rows) > 1 else ""
            raise Refused(
                "observation",
                f"value {index}{where}{of_row} is {mine[row, index]:g}; "
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
