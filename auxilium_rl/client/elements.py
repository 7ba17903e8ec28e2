"""Single observations, masks and actions as a system has them, looked at in less than a microsecond each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.client.errors import ActError
from auxilium_rl.wire.rows import AnySpace

__all__ = ["BoxElements", "fitting_mask", "is_plain_box"]


def is_plain_box(space: AnySpace) -> bool:
    """Whether observations are arrays of float32."""
    return isinstance(space, spaces.Box) and space.dtype == np.float32


class BoxElements:
    """Observations of a Box of float32."""

    def __init__(self, space: AnySpace) -> None:
        self._space, self._shape = space, space.shape
        self._is_flat = len(self._shape or ()) == 1

    def put(self, observation: Any, into: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Copy an observation into an array of the space's shape; gives that as ``(size,)``.

        Raises:
            ActError: it is none.
        """
        try:
            given = observation if isinstance(observation, np.ndarray) else np.array(observation, np.float32)
            if given.shape != self._shape:
                raise ActError(f"observation: shape {given.shape} given; {self._space} is accepted")
            into[...] = given
        except (TypeError, ValueError) as wrong:
            raise ActError(f"observation: {wrong}; {self._space} is accepted") from wrong
        row = into if self._is_flat else into.reshape(-1)
        # A third of the time of a sum; of large numbers it is infinite, and they are looked at one by one.
        if not math.isfinite(row.dot(row)) and not np.isfinite(row).all():
            raise ActError(f"observation: {into} given; every value must be finite")
        return row


def fitting_mask(mask: Any, length: int, otherwise: str, field: str = "mask") -> npt.NDArray[np.bool_]:
    """A mask as an array ``(length,)``, not copied where it is one. Raises ActError, which names the field.

    Args:
        otherwise: what is accepted where the length is 0.
    """
    accepted = f"({length},) of truth values is accepted" if length else otherwise
    try:
        given = np.asarray(mask)
    except (TypeError, ValueError) as wrong:
        raise ActError(f"{field}: {wrong}; {accepted}") from wrong
    if not length or given.shape != (length,) or given.dtype.kind not in "biuf":
        raise ActError(f"{field}: shape {given.shape} of {given.dtype} given; {accepted}")
    return given.astype(bool, copy=False)
