"""What goes to those who follow a policy, made once for all of them."""

from __future__ import annotations

import threading
from collections import OrderedDict

from auxilium_rl.core.policies import PolicyVersion
from auxilium_rl.core.policy_manager import PolicyManager
from auxilium_rl.inference.tensors import tensors_of
from auxilium_rl.wire.payloads import pack_payload
from generated.auxilium.v1 import policies_pb2 as pb

__all__ = ["PayloadCache"]

_KEPT_BYTES = 64 << 20


class PayloadCache:
    """Payloads by the version and by what the caller has already."""

    def __init__(self, policies: PolicyManager) -> None:
        self._policies = policies
        self._kept: OrderedDict[tuple[str, str, bool], tuple[str, pb.Payload]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, version: PolicyVersion, have: str, *, tensors: bool = False) -> tuple[str, pb.Payload]:
        """``policy.json``, and ``policy.onnx`` whole or as the difference to that of the version ``have``.

        Args:
            have: the sha256 of a version; empty: none.
            tensors: the weights of the graph as safetensors, in place of it.

        Raises:
            ModelCorrupt, StoreUnavailable.
        """
        key = version.sha256, have, tensors
        with self._lock:  # also, those who come meanwhile wait instead of doing the same
            if key not in self._kept:
                self._kept[key] = self._made(version, have, tensors)
                while len(self._kept) > 1 and sum(len(p.data) for _, p in self._kept.values()) > _KEPT_BYTES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def _made(self, version: PolicyVersion, have: str, tensors: bool) -> tuple[str, pb.Payload]:
        graph = self._policies.read(version, "policy.onnx")
        before = self._policies.base_of(version, have)
        base = None if before is None else self._policies.read(before, "policy.onnx")
        if tensors:
            graph, base = tensors_of(graph), None if base is None else tensors_of(base)
        return self._policies.read(version, "policy.json").decode(), pack_payload(graph, base)
