"""Rows: what several lanes hold of one space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

__all__ = [
    "AnySpace",
    "Obs",
    "Start",
    "Transition",
    "all_finite",
    "concat_rows",
    "copy_rows",
    "flat",
    "put",
    "stack",
    "take",
]

AnySpace = spaces.Space[Any]
Obs = npt.NDArray[Any] | dict[str, npt.NDArray[Any]]
"""Rows of one space: ``(k, *shape)``; of a Dict one array for each key."""


@dataclass(frozen=True)
class Start:
    """The first observations of episodes.

    Attributes:
        observations: one row for each lane asked for.
        masks: ``(k, mask_len)`` bool, the actions that are legal next; None where there is no mask.
    """

    observations: Obs
    masks: npt.NDArray[np.bool_] | None = None

    def in_order(self, index: npt.NDArray[Any]) -> Start:
        """The rows in another order."""
        return Start(take(self.observations, index), None if self.masks is None else self.masks[index])


@dataclass(frozen=True)
class Transition:
    """What a step of all lanes gave.

    Attributes:
        observations: ``(lanes, *shape)``. Of a finished lane the last of its episode, or, where ``final`` is given,
            the first of its next one.
        rewards: ``(lanes,)`` float32.
        terminated, truncated: ``(lanes,)`` bool.
        infos: one mapping for each lane; empty: none has anything to say.
        masks: ``(lanes, mask_len)`` bool, for the next action; None where there is no mask.
        final: the last observations of the lanes that finished, in order of lanes; None: the port did not reset them.
    """

    observations: Obs
    rewards: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    infos: Sequence[Mapping[str, object]] = ()
    masks: npt.NDArray[np.bool_] | None = None
    final: Obs | None = None


def stack(elements: Iterable[Any], space: AnySpace) -> Obs:
    """Single elements of a space as rows, in the space's dtype. Raises ValueError for one of another shape."""
    together = list(elements)
    if isinstance(space, spaces.Dict):
        return {key: _rows([element[key] for element in together], leaf, key) for key, leaf in space.spaces.items()}
    return _rows(together, space)


def _rows(elements: Sequence[Any], space: AnySpace, key: str = "") -> npt.NDArray[Any]:
    # Filled row by row: for a few small elements that takes a third of what np.stack takes.
    shape = space.shape or ()
    rows: npt.NDArray[Any] = np.empty((len(elements), *shape), space.dtype)
    for number, element in enumerate(elements):
        if np.shape(element) != shape:
            where = f"observation['{key}']" if key else "observation"
            raise ValueError(f"{where} has the shape {np.shape(element)}; the space says {shape}")
        rows[number] = element
    return rows


def concat_rows(parts: Sequence[Obs]) -> Obs:
    """Rows of several, one after another."""
    first = parts[0]
    if isinstance(first, dict):
        return {key: np.concatenate([part[key] for part in parts if isinstance(part, dict)]) for key in first}
    return np.concatenate([part for part in parts if not isinstance(part, dict)])


def take(rows: Obs, index: Any) -> Obs:
    """Some rows, or one element, of every leaf."""
    if isinstance(rows, dict):
        return {key: values[index] for key, values in rows.items()}
    return rows[index]  # type: ignore[no-any-return]


def put(rows: Obs, index: Any, values: Obs) -> None:
    """Replace some rows of every leaf."""
    if isinstance(rows, dict):
        assert isinstance(values, dict)
        for key, leaf in rows.items():
            leaf[index] = values[key]
    else:
        rows[index] = values


def copy_rows(rows: Obs) -> Obs:
    """A copy of every leaf."""
    if isinstance(rows, dict):
        return {key: values.copy() for key, values in rows.items()}
    return rows.copy()


def all_finite(values: npt.NDArray[Any]) -> bool:
    """Whether every number is finite. Most often one pass, for which nothing is allocated."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):
            return True
    return bool(np.isfinite(values).all())  # large numbers have an infinite sum


def flat(rows: Obs, count: int, keys: Sequence[str] = ()) -> npt.NDArray[np.float32]:
    """``(count, size)`` float32: the leaves one after another, in the order of ``keys`` or as they stand."""
    leaves = [rows[key] for key in keys or list(rows)] if isinstance(rows, dict) else [rows]
    parts = [np.asarray(leaf, np.float32).reshape(count, -1) for leaf in leaves]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
