"""What a function takes, checked before it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from generated.auxilium.v1 import functions_pb2 as pb

__all__ = ["Refusal", "Signature", "Tensor"]


class Refusal(ValueError):
    """Arguments that a function does not take: which, what was given, and what is accepted."""


@dataclass(frozen=True)
class Tensor:
    """An array that a function takes. ``None`` in the shape: any size."""

    shape: tuple[int | None, ...]
    dtype: str

    def check(self, name: str, value: Any) -> Any:
        """The value. Raises Refusal."""
        accepted = f"an array of {self.dtype} and shape {_told(self.shape)} is accepted"
        if not isinstance(value, np.ndarray):
            raise Refusal(f"{name}: {type(value).__name__} given; {accepted}")
        fits = len(value.shape) == len(self.shape) and all(
            wanted in (None, size) for wanted, size in zip(self.shape, value.shape, strict=True)
        )
        if value.dtype != np.dtype(self.dtype) or not fits:
            raise Refusal(f"{name}: an array of {value.dtype} and shape {list(value.shape)} given; {accepted}")
        return value


class Signature:
    """The arguments of one function, by its own parameters and by what is declared of them.

    Raises:
        ValueError: what is declared is no parameter of the function, or a dtype is none.
    """

    def __init__(self, function: Callable[..., Any], declared: Mapping[str, Tensor]) -> None:
        self._declared = dict(declared)
        self._parameters: dict[str, bool] = {}
        self.open = False
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                self.open = True
            elif parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
                self._parameters[name] = parameter.default is not inspect.Parameter.empty
        unknown = [name for name in declared if name not in self._parameters and not self.open]
        if unknown:
            raise ValueError(f"signature: {', '.join(unknown)} declared; it takes {', '.join(self._parameters)}")
        for name, tensor in declared.items():
            np.dtype(tensor.dtype)
            self._parameters.setdefault(name, False)

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raises Refusal."""
        accepted = ", ".join(self._parameters) or "nothing"
        for name, value in arguments.items():
            if name not in self._parameters and not self.open:
                raise Refusal(f"arguments: '{name:.80}' given; {accepted} is accepted")
            if name in self._declared:
                self._declared[name].check(name, value)
        missing = [name for name, optional in self._parameters.items() if not optional and name not in arguments]
        if missing:
            raise Refusal(f"arguments: {', '.join(missing)} missing; {accepted} is accepted")

    def message(self, name: str, description: str) -> pb.Function:
        """What callers are told."""
        told = pb.Function(name=name, description=description, open=self.open)
        for argument, optional in self._parameters.items():
            tensor = self._declared.get(argument)
            told.arguments.add(
                name=argument,
                optional=optional,
                dtype=tensor.dtype if tensor else "",
                shape=[-1 if size is None else size for size in tensor.shape] if tensor else [],
            )
        return told


def _told(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"
