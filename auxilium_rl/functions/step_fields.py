"""What a step of a store is made of: arrays by name, maps of arrays, and maps of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Field", "InvalidStep", "StepFields"]

_KINDS = "biufc"
"""Booleans, whole numbers, floats, complex ones: what has a fixed size and is no Python object."""


class InvalidStep(ValueError):
    """A step that a store does not take: which field, what was given, and what is accepted."""


@dataclass(frozen=True)
class Field:
    """An array of every step. In ``path`` names are parted by ``/``: ``observation/image``."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        if self.dtype.kind not in _KINDS:
            raise InvalidStep(f"{self.path}: {self.dtype} given; numbers and booleans are accepted")

    @property
    def told(self) -> str:
        """For messages."""
        return f"{self.dtype} of shape {list(self.shape)}"

    def check(self, value: Any) -> npt.NDArray[Any]:
        """``value`` as an array of this shape and dtype. Raises InvalidStep.

        A number of Python's own has no dtype: it is taken where it fits.
        """
        if self.shape == () and type(value) in (bool, int, float):
            return self._number(value)
        found = _array(self.path, value)
        if found.dtype != self.dtype or found.shape != self.shape:
            raise InvalidStep(f"{self.path}: {found.dtype} of shape {list(found.shape)} given; {self.told} is accepted")
        return found

    def _number(self, value: float) -> npt.NDArray[Any]:
        accepted = {bool: "b", int: "iufc", float: "fc"}[type(value)]
        if self.dtype.kind in accepted:
            try:
                with np.errstate(over="ignore"):
                    found = np.asarray(value, self.dtype)
                if np.isfinite(found) or not np.isfinite(value):
                    return found
            except OverflowError:
                pass
        raise InvalidStep(f"{self.path}: {type(value).__name__} {value!s:.40} given; {self.told} is accepted")


class StepFields:
    """The fields of every step of a store, in an order.

    Raises:
        InvalidStep: there is none, or one of them cannot be kept in an array.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self._tree: dict[str, Any] = {}
        for number, field in enumerate(self.fields):
            node = self._tree
            *above, last = field.path.split("/")
            for name in above:
                node = node.setdefault(name, {})
                if not isinstance(node, dict):
                    raise InvalidStep(f"{field.path}: its name is given twice")
            if last in node:
                raise InvalidStep(f"{field.path}: its name is given twice")
            node[last] = number
        if not self.fields:
            raise InvalidStep("structure: nothing given; at least one field is accepted")

    @classmethod
    def declared(cls, structure: Mapping[str, Any]) -> StepFields:
        """By what has a ``shape`` and a ``dtype`` (spaces of Gymnasium, arrays, ``Tensor``), and maps of these."""
        return cls([_declared(path, leaf) for path, leaf in _leaves(structure)])

    @classmethod
    def of(cls, step: Mapping[str, Any]) -> StepFields:
        """As this step has them; numbers of Python become int64, float64 and bool."""
        arrays = [(path, _array(path, leaf)) for path, leaf in _leaves(step)]
        return cls([Field(path, array.shape, array.dtype) for path, array in arrays])

    @property
    def names(self) -> list[str]:
        """Of the highest level."""
        return list(self._tree)

    def flat(self, step: Any) -> list[npt.NDArray[Any]]:
        """The arrays of a step, in the order of the fields. Raises InvalidStep."""
        found: list[Any] = [None] * len(self.fields)
        self._flatten(self._tree, step, "", found)
        return found

    def nested(self, values: Sequence[Any]) -> dict[str, Any]:
        """What ``flat`` took apart: a value for each field, as maps of maps."""
        return _filled(self._tree, values)

    def under(self, source: str) -> tuple[Any, list[int]]:
        """The field of this path, or the map with this path: a number or maps of numbers, and which they are.

        Raises ValueError: there is none.
        """
        node: Any = self._tree
        for name in source.split("/"):
            if not isinstance(node, dict) or name not in node:
                raise ValueError(f"source: '{source:.80}' given; {', '.join(self._paths())} is accepted")
            node = node[name]
        return node, list(_numbers(node))

    def _paths(self) -> list[str]:
        return [field.path for field in self.fields]

    def _flatten(self, node: dict[str, Any], step: Any, prefix: str, found: list[Any]) -> None:
        if not isinstance(step, Mapping):
            where = prefix.rstrip("/") or "step"
            raise InvalidStep(f"{where}: {type(step).__name__} given; a map of {', '.join(node)} is accepted")
        if len(step) != len(node) or any(name not in step for name in node):
            raise _other_names(node, step, prefix)
        for name, below in node.items():
            if isinstance(below, int):
                found[below] = self.fields[below].check(step[name])
            else:
                self._flatten(below, step[name], f"{prefix}{name}/", found)


def _other_names(node: dict[str, Any], step: Mapping[str, Any], prefix: str) -> InvalidStep:
    missing = [f"{prefix}{name}" for name in node if name not in step]
    unknown = [f"{prefix}{name}" for name in step if name not in node]
    told = [f"{', '.join(names)} {what}" for names, what in ((missing, "missing"), (unknown, "unknown")) if names]
    return InvalidStep(f"{prefix.rstrip('/') or 'step'}: {'; '.join(told):.200}; {', '.join(node)} are accepted")


def _leaves(structure: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in structure.items():
        if not isinstance(name, str) or not name or "/" in name:
            raise InvalidStep(f"{prefix}{name!r:.80} given; names are text without '/'")
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _declared(path: str, leaf: Any) -> Field:
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if shape is None or dtype is None or None in shape:
        raise InvalidStep(f"{path}: {type(leaf).__name__} given; what has a whole shape and a dtype is accepted")
    return Field(path, tuple(int(size) for size in shape), np.dtype(dtype))


def _array(path: str, value: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InvalidStep(f"{path}: {type(value).__name__} given; an array is accepted ({error})") from error


def _filled(node: dict[str, Any], values: Sequence[Any]) -> dict[str, Any]:
    return {name: values[below] if isinstance(below, int) else _filled(below, values) for name, below in node.items()}


def _numbers(node: Any) -> Iterator[int]:
    if isinstance(node, int):
        yield node
    else:
        for below in node.values():
            yield from _numbers(below)
