"""Policies from both stores, ready to act."""

from __future__ import annotations

from auxilium_rl.core.dto import Checkpoint
from auxilium_rl.core.errors import ModelCorrupt
from auxilium_rl.core.policies import PolicyVersion
from auxilium_rl.core.policy_ports import PolicyStore
from auxilium_rl.core.ports import ModelStore
from auxilium_rl.inference.loading import checked_policy
from auxilium_rl.inference.policy import OnnxPolicy
from auxilium_rl.inference.refused import Unfit

__all__ = ["PolicyLoader"]


class PolicyLoader:
    """Loads policies.

    Args:
        most: rows of several callers that a policy computes together.
    """

    def __init__(self, models: ModelStore, policies: PolicyStore, most: int) -> None:
        self._models, self._policies, self._most = models, policies, most

    def of_checkpoint(self, checkpoint: Checkpoint) -> OnnxPolicy:
        """Raises ModelCorrupt, StoreUnavailable."""
        names = self._models.names(checkpoint)
        try:
            return checked_policy(lambda name: self._models.read(checkpoint, name), names, checkpoint.path, self._most)
        except Unfit as unfit:
            raise ModelCorrupt(str(unfit)) from unfit

    def of_version(self, version: PolicyVersion) -> OnnxPolicy:
        """Raises ModelCorrupt, StoreUnavailable."""
        names = [file.name for file in version.files]
        where = f"{version.name}@{version.version}"
        try:
            return checked_policy(lambda name: self._policies.read(version, name), names, where, self._most)
        except Unfit as unfit:
            raise ModelCorrupt(str(unfit)) from unfit
