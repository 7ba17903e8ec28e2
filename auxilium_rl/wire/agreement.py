"""What agents and a learner agree on: spaces and the length of masks, as one JSON text."""

from __future__ import annotations

import json

from auxilium_rl.wire.rows import AnySpace
from auxilium_rl.wire.spaces import UnsupportedSpace, leaves_of, mask_length, space_from_json, space_json

__all__ = ["contract_of", "difference", "spaces_of"]


def contract_of(observation: AnySpace, action: AnySpace, mask_len: int) -> str:
    """The text; equal for equal spaces.

    Raises:
        UnsupportedSpace: a space cannot travel, or no mask of this length fits the actions; names the field.
    """
    leaves_of(observation)
    leaves_of(action, action=True)
    if mask_len not in (0, mask_length(action)):
        raise UnsupportedSpace(
            f"environment.mask_len: {mask_len} given; 0 or {mask_length(action)} is accepted for the actions {action}"
        )
    told = {"observation": space_json(observation), "action": space_json(action), "mask_len": mask_len}
    return json.dumps(told, sort_keys=True, separators=(",", ":"))


def spaces_of(contract: str) -> tuple[AnySpace, AnySpace, int]:
    """Observation space, action space, mask length."""
    told = json.loads(contract)
    return (
        space_from_json(told["observation"], "observation"),
        space_from_json(told["action"], "action"),
        int(told["mask_len"]),
    )


def difference(agreed: str, given: str) -> tuple[str, str] | None:
    """The first field in which two differ, and both of its values; None: they are equal."""
    if agreed == given:
        return None
    ours, theirs = spaces_of(agreed), spaces_of(given)
    for name, wanted, found in zip(("observation", "action", "mask_len"), ours, theirs, strict=True):
        if str(wanted) != str(found):
            return name, f"{found} given; the run has {wanted}"
    return "observation", "the bounds given are not those of the run"
