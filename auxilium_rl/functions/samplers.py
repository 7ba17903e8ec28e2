"""Which steps are looked at from a step that was drawn: itself, those around it, one that comes later.

Whatever they are, they are of the same trajectory, and still in the store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Looked", "Pad", "Sampler", "Source", "future", "next_step", "now", "sequence"]

Pad = Literal["refuse", "edge", "zero"]
"""Where a trajectory has no such step: none is drawn from which there is not; the first or last step; zeros."""

Source = str | tuple[str, ...] | None
"""A field, a map of fields, several of these (they come as a map), or, None, what the key names."""

_PADS = ("refuse", "edge", "zero")


class Looked(NamedTuple):
    """Where to look: steps from the one drawn, ``(batch,)`` or ``(batch, time)`` int64."""

    offsets: npt.NDArray[np.int64]
    zero: bool
    """Zeros where there is no such step."""
    told: bool
    """The offsets are given back."""


@dataclass(frozen=True)
class Sampler(ABC):
    """One key of what is sampled; ``now``, ``next_step``, ``sequence`` and ``future`` make them."""

    source: Source

    @property
    @abstractmethod
    def needs(self) -> tuple[int, int]:
        """Steps of its trajectory before and after a step, without which it is not drawn."""

    @abstractmethod
    def look(self, after: npt.NDArray[np.int64], rng: np.random.Generator) -> Looked:
        """``after`` ``(batch,)``: how many steps of its trajectory follow each that was drawn."""


@dataclass(frozen=True)
class _Step(Sampler):
    offset: int
    pad: Pad
    told: bool = False

    @property
    def needs(self) -> tuple[int, int]:
        return 0, self.offset if self.pad == "refuse" else 0

    def look(self, after: npt.NDArray[np.int64], rng: np.random.Generator) -> Looked:
        return Looked(np.full(after.shape, self.offset, np.int64), self.pad == "zero", self.told)


@dataclass(frozen=True)
class _Window(Sampler):
    before: int
    after: int
    pad: Pad

    @property
    def needs(self) -> tuple[int, int]:
        return (max(self.before, 0), max(self.after, 0)) if self.pad == "refuse" else (0, 0)

    def look(self, after: npt.NDArray[np.int64], rng: np.random.Generator) -> Looked:
        window = np.arange(-self.before, self.after + 1, dtype=np.int64)
        return Looked(np.broadcast_to(window, (after.size, window.size)), self.pad == "zero", False)


@dataclass(frozen=True)
class _Future(Sampler):
    least: int
    most: int | None
    p: float | None

    @property
    def needs(self) -> tuple[int, int]:
        return 0, self.least

    def look(self, after: npt.NDArray[np.int64], rng: np.random.Generator) -> Looked:
        last = after if self.most is None else np.minimum(after, self.most)
        choices = last - self.least + 1
        if self.p is None:
            further = rng.integers(choices)
        elif self.p == 1:
            further = np.zeros_like(choices)
        else:
            further = _geometric(self.p, choices, rng)
        return Looked(self.least + further, False, True)


def now(source: Source = None) -> Sampler:
    """The step itself: values ``(batch, *shape)``."""
    return _Step(source, 0, "refuse")


def next_step(source: Source = None, *, pad: Pad = "refuse") -> Sampler:
    """The step after it: values ``(batch, *shape)``. Raises ValueError for another ``pad``."""
    return _Step(source, 1, _checked(pad))


def sequence(
    source: Source = None, *, before: int = 0, after: int | None = None, length: int | None = None, pad: Pad = "refuse"
) -> Sampler:
    """The steps from ``before`` steps before it to ``after`` steps after it: values ``(batch, time, *shape)``.

    Args:
        before, after: negative ones leave the step itself out: ``before=3, after=-1`` are the three before it.
        length: of the whole, in place of ``after``.
        pad: what is at places where the trajectory has no step; the mask is False there.

    Raises:
        ValueError: both or no step are asked for, or ``pad`` is another.
    """
    if after is not None and length is not None:
        raise ValueError(f"after, length: {after} and {length} given; one of them is accepted")
    end = (0 if length is None else length - 1 - before) if after is None else after
    if before + end < 0:
        raise ValueError(f"before, after: {before} and {end} given; at least one step is accepted")
    return _Window(source, before, end, _checked(pad))


def future(
    source: Source = None, *, offset: int | None = None, p: float | None = None, least: int = 1, most: int | None = None
) -> Sampler:
    """One step of the rest of the trajectory, for goals that were reached: ``{"data": values, "offset": steps}``.

    Only steps are drawn after which there are ``least`` (or ``offset``) more. Offsets are ``(batch,)`` int64. Every key
    draws for itself; name several fields as one ``source`` to have them of one step.

    Args:
        offset: always so many steps on. None: a random number of them.
        p: the chance of each step not to go on to the next one: ``1 - gamma`` for discounted occupancy, of what is in
            the store and not beyond it. None: each step of the rest is as likely.
        least: steps on, at least; 0: it may be the step itself.
        most: steps on, at most.

    Raises:
        ValueError: ``offset`` beside one of the others, or a number out of its range.
    """
    if offset is not None:
        if (p, least, most) != (None, 1, None) or offset < 0:
            raise ValueError(f"offset: {offset} given; 0 or more is accepted, and no p, least or most beside it")
        return _Step(source, offset, "refuse", told=True)
    if p is not None and not 0 < p <= 1:
        raise ValueError(f"p: {p} given; above 0 and up to 1 is accepted")
    if least < 0 or (most is not None and most < least):
        raise ValueError(f"least, most: {least} and {most} given; 0 <= least <= most is accepted")
    return _Future(source, least, most, p)


def _checked(pad: Any) -> Pad:
    if pad not in _PADS:
        raise ValueError(f"pad: {pad!r:.80} given; {', '.join(_PADS)} are accepted")
    found: Pad = pad
    return found


def _geometric(p: float, choices: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """From 0 to ``choices - 1``, each ``1 - p`` times as likely as the one before: the distribution's inverse."""
    stay = np.log1p(-p)
    reached = -np.expm1(choices * stay)
    found = np.log1p(-rng.random(choices.shape) * reached) / stay
    # rounding may reach the first one that there is not
    bounded: npt.NDArray[np.int64] = np.minimum(found.astype(np.int64), choices - 1)
    return bounded
