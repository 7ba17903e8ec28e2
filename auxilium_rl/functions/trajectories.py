"""``TrajectoryStore``: steps in a ring that know their trajectory, and windows and futures of them for a learner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from auxilium_rl.functions.ring import Ints, NotEnoughSteps, RingStore, Seed
from auxilium_rl.functions.samplers import Looked, Sampler, now
from auxilium_rl.functions.step_fields import InvalidStep, StepFields
from auxilium_rl.functions.trajectory_index import Name, TrajectoryIndex

__all__ = ["END", "STEP_ID", "TRAJECTORY", "TrajectoryStore"]

END, TRAJECTORY, STEP_ID = "end_of_trajectory", "trajectory", "step_id"
_RESERVED = (END, TRAJECTORY, STEP_ID)

Mask = dict[str, npt.NDArray[np.bool_]]
Sampled = tuple[dict[str, Any], Mask]
Samplers = Mapping[str, Sampler]


class TrajectoryStore(RingStore):
    """A ring of steps. When it is full the oldest step goes, and its trajectory begins one later.

    A step is a map of arrays, and may have two keys that are no fields of it:

    - ``end_of_trajectory``, true: it is the last one of its trajectory;
    - ``trajectory``, text or a whole number: which of several that its sender has open at once, for one that steps
      several environments. A name may be used again once its trajectory has ended.

    In a ``TrainerServer`` steps of two clients never are of one trajectory, whatever they are called, and neither are
    those before and after a gap (items that a client's full store lost).

    Args:
        capacity, structure, seed: see ``RingStore``.
        ends: fields whose truth ends a trajectory, too: ``("terminated", "truncated")``.

    Raises:
        InvalidStep: see ``RingStore``; or a field has a name that is reserved.
    """

    def __init__(
        self,
        capacity: int,
        structure: Mapping[str, Any] | None = None,
        *,
        ends: Iterable[str] = (),
        seed: int | None = None,
    ) -> None:
        self._ends = tuple(ends)
        super().__init__(capacity, structure, seed=seed)
        self._index = TrajectoryIndex(capacity)
        self._configured: dict[str, tuple[Samplers, Callable[..., Sampled] | None]] = {}

    def insert(
        self, data: Mapping[str, Any], end_of_trajectory: bool = False, *, trajectory: int | str | None = None
    ) -> None:
        """Add a step; what it says itself, by its keys, goes before the arguments.

        Raises:
            InvalidStep: another structure than that of the store: which field, what was given, what is accepted.
        """
        marks = {END: end_of_trajectory, TRAJECTORY: trajectory}
        self.batch_insert([{**marks, **data} if isinstance(data, Mapping) else data])

    def batch_insert(self, batch_data: Iterable[Mapping[str, Any]]) -> None:
        """Add steps, all of them or, when it raises, none. Raises InvalidStep."""
        self._add("", batch_data)

    def batch_insert_from(
        self, source: str, batch_data: Iterable[Mapping[str, Any]], *, continues: bool = True
    ) -> None:
        """See ``DataStoreBase``: trajectories of ``source`` are its own, and end where it does not continue."""
        self._add(source, batch_data, continues)

    def end_trajectory(self, trajectory: int | str | None = None) -> None:
        """The newest step of the open trajectory was its last one. On an actor use the key: this is not sent."""
        with self._lock:
            self._index.end(("", trajectory))

    def register_sample_config(
        self, name: str, samplers: Samplers, transform: Callable[..., Sampled] | None = None
    ) -> None:
        """Give samplers a name for ``sample``, and a function that gets what was sampled and gives what is returned."""
        self._configured[name] = dict(samplers), transform

    def sample(self, batch_size: int, samplers: Samplers | str | None = None, *, rng: Seed = None) -> Sampled:
        """Draw steps with replacement, each as likely from which all samplers can look, and look from them.

        ``data, mask = store.sample(256, {"observation": sequence(length=16), "goal": future("achieved", p=0.1)})``

        Args:
            samplers: by key; a name of ``register_sample_config``; None: ``now()`` for every field. Sources are fields
                (``observation/image``), maps of fields, and ``end_of_trajectory`` (bool) and ``step_id`` (int64).
            rng: a generator, or a seed.

        Returns:
            By key, what the samplers' own descriptions say; and masks ``(batch,)`` or ``(batch, time)``, bool: whether
            there was a step, and not padding.

        Raises:
            NotEnoughSteps: there is no such step yet.
            ValueError: ``batch_size`` is below 1, or there is no such source or configuration.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} given; at least 1 is accepted")
        with self._lock:
            wanted, transform = self._wanted(samplers)
            generator = self._generator(rng)
            drawn = self._looked(self._drawn(batch_size, _needs(wanted), generator), wanted, generator)
        return drawn if transform is None else transform(*drawn)

    def at(self, ids: npt.ArrayLike, samplers: Samplers | str | None = None, *, rng: Seed = None) -> Sampled:
        """The same from given steps ``(batch,)``: ids as ``step_id`` told them, for priorities of one's own.

        Raises:
            NotEnoughSteps: one of them is no more in the store, or samplers cannot look from it. Else as ``sample``.
        """
        with self._lock:
            wanted, transform = self._wanted(samplers)
            asked = np.asarray(ids, np.int64).reshape(-1)
            if not ((asked >= self._next - len(self)) & (asked < self._next)).all():
                raise NotEnoughSteps(f"ids: steps from {self._next - len(self)} to {self._next - 1} are in the store")
            slots = asked % self.capacity
            fits = self._fit(slots, _needs(wanted))
            if not fits.all():
                raise NotEnoughSteps(f"ids: {asked[~fits][0]} given; {_too_few(_needs(wanted))}")
            found = self._looked(slots, wanted, self._generator(rng))
        return found if transform is None else transform(*found)

    def starts(self, samplers: Samplers | str | None = None) -> int:
        """How many steps ``sample`` draws from, for a learner that waits for enough of them."""
        with self._lock:
            if self._fields is None:
                return 0
            return int(self._fit(np.arange(len(self)), _needs(self._wanted(samplers)[0])).sum())

    # -- steps

    def _add(self, source: str, batch: Iterable[Mapping[str, Any]], continues: bool = True) -> None:
        steps = list(batch)
        marks = [_read_marks(step) for step in steps]
        plain = [{key: value for key, value in step.items() if key not in (END, TRAJECTORY)} for step in steps]
        with self._lock:
            rows = self._checked(plain)
            ends = [any(bool(np.any(step[field])) for field in self._ends) for step in plain]
            if not continues:
                self._index.end_all(source)
            for row, (ended, name), over in zip(rows, marks, ends, strict=True):
                self._index.evict(self._next % self.capacity)
                self._index.append(self._put(row), (source, name), ended or over)

    def _declare(self, fields: StepFields) -> None:
        for name in fields.names:
            if name in _RESERVED:
                raise InvalidStep(f"{name}: a field of this name given; {', '.join(_RESERVED)} are no fields")
        for name in self._ends:
            if name not in fields.names:
                raise InvalidStep(f"ends: '{name:.80}' given; {', '.join(fields.names)} are accepted")
        super()._declare(fields)

    # -- sampling

    def _wanted(self, samplers: Samplers | str | None) -> tuple[Samplers, Callable[..., Sampled] | None]:
        if samplers is None:
            return {name: now() for name in self._known_fields().names}, None
        if not isinstance(samplers, str):
            return samplers, None
        if samplers not in self._configured:
            known = ", ".join(self._configured) or "none"
            raise ValueError(f"samplers: '{samplers:.80}' given; {known} is registered")
        return self._configured[samplers]

    def _fit(self, slots: Ints, needs: tuple[int, int]) -> npt.NDArray[np.bool_]:
        before, after = self._index.around(slots)
        found: npt.NDArray[np.bool_] = (before >= needs[0]) & (after >= needs[1])
        return found

    def _drawn(self, count: int, needs: tuple[int, int], rng: np.random.Generator) -> Ints:
        """Slots, uniform over those from which it is possible.

        Those that fit among some drawn from all are uniform; where few fit it is cheaper to look at all.
        """
        slots = rng.integers(len(self), size=4 * count if any(needs) else count) if len(self) else np.arange(0)
        fitting = slots[self._fit(slots, needs)]
        if fitting.size < count:
            everywhere = np.arange(len(self))
            possible = everywhere[self._fit(everywhere, needs)]
            if not possible.size:
                raise NotEnoughSteps(f"{len(self)} steps are in the store; {_too_few(needs)}")
            fitting = possible[rng.integers(possible.size, size=count)]
        return fitting[:count]

    def _looked(self, slots: Ints, samplers: Samplers, rng: np.random.Generator) -> Sampled:
        data: dict[str, Any] = {}
        mask: Mask = {}
        before, after = self._index.around(slots)
        for key, sampler in samplers.items():
            looked = sampler.look(after, rng)
            axes = (slice(None), *[None] * (looked.offsets.ndim - 1))
            nearest = np.clip(looked.offsets, -before[axes], after[axes])
            mask[key] = nearest == looked.offsets
            data[key] = self._values(key, sampler, self._index.at(slots, nearest), looked, mask[key])
        return data, mask

    def _values(self, key: str, sampler: Sampler, slots: Ints, looked: Looked, inside: npt.NDArray[np.bool_]) -> Any:
        outside = ~inside if looked.zero else None
        if isinstance(sampler.source, tuple):
            found: Any = {source: self._field(source, slots, outside) for source in sampler.source}
        else:
            found = self._field(key if sampler.source is None else sampler.source, slots, outside)
        return {"data": found, "offset": looked.offsets} if looked.told else found

    def _field(self, source: str, slots: Ints, outside: npt.NDArray[np.bool_] | None) -> Any:
        if source == STEP_ID:
            return _zeroed(self._ids(slots), outside)
        if source == END:
            return _zeroed(self._index.ends(slots), outside)
        node, numbers = self._known_fields().under(source)
        values = {number: _zeroed(self._columns[number][slots], outside) for number in numbers}
        return _mapped(node, values)

    # -- for other stores, and files

    def _marks(self, slot: int) -> dict[str, Any]:
        name = self._index.name(slot)[1]
        ended = bool(self._index.ends(np.array([slot]))[0])
        return {END: ended} if name is None else {END: ended, TRAJECTORY: name}

    def _saved(self, slots: Ints) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        numbers, ended, names = self._index.taken(slots)
        return {"trajectory": numbers, "ended": ended}, {"names": names, "ends": self._ends}

    @classmethod
    def _made(cls, told: dict[str, Any], seed: int | None) -> TrajectoryStore:
        made = super()._made(told, seed)
        made._ends = tuple(str(field) for field in told["ends"])
        return made

    def _restored(self, slots: Ints, told: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        numbers, ended = arrays.pop("trajectory"), arrays.pop("ended")
        names: list[Name] = [(str(source), _named(name)) for source, name in told["names"]]
        if numbers.dtype != np.int64 or numbers.shape != slots.shape:
            raise ValueError("trajectories of another shape or dtype")
        if ended.dtype != np.bool_ or ended.shape != (len(names),):
            raise ValueError("ends of another shape or dtype")
        self._index.restore(slots, numbers, ended, names)


def _needs(samplers: Samplers) -> tuple[int, int]:
    needs = [sampler.needs for sampler in samplers.values()]
    return max((before for before, _ in needs), default=0), max((after for _, after in needs), default=0)


def _too_few(needs: tuple[int, int]) -> str:
    return f"{needs[0]} before it and {needs[1]} after it in its trajectory are needed to draw a step"


def _zeroed(values: npt.NDArray[Any], outside: npt.NDArray[np.bool_] | None) -> npt.NDArray[Any]:
    if outside is not None:
        values[outside] = 0
    return values


def _mapped(node: Any, values: Mapping[int, Any]) -> Any:
    return values[node] if isinstance(node, int) else {name: _mapped(below, values) for name, below in node.items()}


def _read_marks(step: Any) -> tuple[bool, int | str | None]:
    if not isinstance(step, Mapping):
        raise InvalidStep(f"step: {type(step).__name__} given; a map is accepted")
    ended = np.asarray(step.get(END, False))
    if ended.shape or ended.dtype.kind not in "biuf":
        raise InvalidStep(f"{END}: {ended.dtype} of shape {list(ended.shape)} given; a truth value is accepted")
    return bool(ended), _named(step.get(TRAJECTORY))


def _named(name: Any) -> int | str | None:
    if isinstance(name, (np.ndarray, np.generic)) and name.shape == ():
        name = name.item()
    if name is None or type(name) in (int, str):
        found: int | str | None = name
        return found
    raise InvalidStep(f"{TRAJECTORY}: {type(name).__name__} given; text or a whole number is accepted")
