"""From stored chunks to episodes, as libraries for offline learning want them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.agent.datasets.source import Source
from auxilium_rl.client.errors import InvalidArgument
from auxilium_rl.wire.chunks import Experience, Span
from auxilium_rl.wire.rows import AnySpace, Obs, concat_rows, copy_rows, take
from auxilium_rl.wire.spaces import leaves_of, shifted

__all__ = ["Trajectory", "filler", "plain_keys", "trajectories"]


@dataclass(frozen=True)
class Trajectory:
    """Steps of one episode, one after another; ``n`` of them. Values are as the agent saw and did them.

    Attributes:
        episode: number of the agent's own, unique within its incarnation.
        first_step: above 0 where the steps before are not stored.
        observations: ``(n + 1, *shape)`` in the space's dtype.
        actions: ``(n, *shape)`` in the space's dtype, as the environment took them: those of a Box clipped to it.
        rewards: ``(n,)`` float32.
        infos: ``(n + 1, …)`` each; row ``t`` is of action ``t``, and the last of none. ``version`` int32 (last -1) and
            ``log_prob`` float32 (NaN where unknown); ``mask`` bool where the run has masks; of a Box
            ``drawn_action`` float32 (last NaN): what ``log_prob`` is of, before it was clipped.
        terminated, truncated: how the episode ended; neither: it had not, when its last step was sent.
        final_seen: the last observation is true; else the episode terminated, nothing was seen after, and ``filler``
            stands in its place.
    """

    agent: str
    incarnation: str
    episode: int
    first_step: int
    observations: Obs
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float32]
    infos: dict[str, npt.NDArray[Any]]
    terminated: bool
    truncated: bool
    final_seen: bool

    @property
    def count(self) -> int:
        """Its steps."""
        return len(self.rewards)

    @property
    def unfinished(self) -> bool:
        """It had not ended."""
        return not self.terminated and not self.truncated

    @property
    def about(self) -> dict[str, Any]:
        """What a dataset says of an episode."""
        return {
            "agent": self.agent,
            "incarnation": self.incarnation,
            "episode": self.episode,
            "first_step": self.first_step,
            "unfinished": self.unfinished,
            "final_observation_seen": self.final_seen,
        }


def trajectories(source: Source) -> Iterator[Trajectory]:
    """Everything that is stored of a run, in the order in which episodes ended; then those that had not.

    An episode's steps may be spread over several chunks, between those of others; only episodes under way are held in
    memory. One with a gap, where a chunk was put aside, comes in several parts.
    """
    running: dict[tuple[str, str, int], _Part] = {}
    for stored, found in source.chunks():
        for piece in _pieces(found, source.mask_len):
            span = piece.span
            key = stored.agent_id, stored.incarnation, span.episode
            part = running.get(key)
            if part is not None and part.next_step != span.start:
                yield running.pop(key).whole(source)
                part = None
            if part is None:
                part = running[key] = _Part(*key)
            part.pieces.append(piece)
            if span.terminated or span.truncated:
                yield running.pop(key).whole(source)
    for key in list(running):
        yield running.pop(key).whole(source)


class _Piece(NamedTuple):
    """The rows of one span; they count from 0."""

    span: Span
    observations: Obs
    following: Obs | None
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float32]
    log_probs: npt.NDArray[np.float32]
    masks: npt.NDArray[np.bool_]


def _pieces(found: Experience, mask_len: int) -> Iterator[_Piece]:
    log_probs = np.full(found.count, np.nan, np.float32) if found.log_probs is None else found.log_probs
    masks = np.ones((found.count, mask_len), bool) if found.masks is None else found.masks
    row = after = 0
    for span in found.spans:
        rows = slice(row, row + span.count)
        yield _Piece(
            span,
            copy_rows(take(found.observations, rows)),  # a view would keep the whole chunk in memory
            copy_rows(take(found.following, slice(after, after + 1))) if span.has_following else None,
            found.actions[rows].copy(),
            found.rewards[rows].copy(),
            log_probs[rows].copy(),
            masks[rows].copy(),
        )
        row += span.count
        after += span.has_following


@dataclass
class _Part:
    agent: str
    incarnation: str
    episode: int
    pieces: list[_Piece] = field(default_factory=list)

    @property
    def next_step(self) -> int:
        last = self.pieces[-1].span
        return last.start + last.count

    def whole(self, source: Source) -> Trajectory:
        """With values as the spaces have them."""
        first, last = self.pieces[0], self.pieces[-1]
        seen = _native(concat_rows([piece.observations for piece in self.pieces]), source.observation)
        final = (
            _rows_of(filler(source.observation))
            if last.following is None
            else _native(last.following, source.observation)
        )
        return Trajectory(
            self.agent,
            self.incarnation,
            self.episode,
            first.span.start,
            concat_rows([seen, final]),
            _done(np.concatenate([piece.actions for piece in self.pieces]), source.action),
            np.concatenate([piece.rewards for piece in self.pieces]),
            self._infos(source),
            last.span.terminated,
            last.span.truncated,
            last.following is not None,
        )

    def _infos(self, source: Source) -> dict[str, npt.NDArray[Any]]:
        versions = [np.full(piece.span.count, piece.span.version, np.int32) for piece in self.pieces]
        infos = {
            "version": np.concatenate([*versions, np.array([-1], np.int32)]),
            "log_prob": _and_one_more([piece.log_probs for piece in self.pieces], np.nan),
        }
        if source.mask_len:
            infos["mask"] = _and_one_more([piece.masks for piece in self.pieces], True)
        if isinstance(source.action, spaces.Box):
            infos["drawn_action"] = _and_one_more([piece.actions for piece in self.pieces], np.nan)
        return infos


def _and_one_more(parts: list[npt.NDArray[Any]], value: float) -> npt.NDArray[Any]:
    return np.concatenate([*parts, np.full_like(parts[0][:1], value)])


def filler(space: AnySpace) -> Any:
    """The element of a space that is nearest to zero; of whole numbers the first."""
    if isinstance(space, spaces.Dict):
        return {key: filler(leaf) for key, leaf in space.spaces.items()}
    zeros = np.zeros(space.shape or (), space.dtype)
    if isinstance(space, spaces.Box):
        return np.asarray(np.clip(zeros, space.low, space.high))
    return np.asarray(shifted(space, zeros, 1))


def _rows_of(element: Any) -> Obs:
    return {key: leaf[None] for key, leaf in element.items()} if isinstance(element, dict) else element[None]


def _native(rows: Obs, space: AnySpace) -> Obs:
    moved = shifted(space, rows, 1)
    if isinstance(space, spaces.Dict):
        return {key: moved[key].astype(leaf.dtype) for key, leaf in space.spaces.items()}
    native: Obs = moved.astype(space.dtype)
    return native


def _done(drawn: npt.NDArray[Any], space: AnySpace) -> npt.NDArray[Any]:
    """Actions as the environment took them: an agent clips what it drew, and learns from what it drew."""
    if isinstance(space, spaces.Box):
        drawn = np.clip(drawn, space.low.astype(np.float32), space.high.astype(np.float32))
    done: Any = _native(drawn, space)
    return np.asarray(done)


def plain_keys(space: AnySpace, what: str) -> None:
    """Raises InvalidArgument for a Dict with a key that ``what`` cannot have: it makes paths of them."""
    for leaf in leaves_of(space):
        if "/" in leaf.key or leaf.key == "." or (not leaf.key and isinstance(space, spaces.Dict)):
            raise InvalidArgument.of(f"observation['{leaf.key}']", f"{what} takes no empty key, '.' or '/'")
