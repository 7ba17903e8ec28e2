"""A policy in the caller's own process, kept up to date from the server."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc

from auxilium_rl.client.acting import Acting
from auxilium_rl.client.errors import ActError, ClientError
from auxilium_rl.client.policy_encoding import PolicyEncoding
from auxilium_rl.client.policy_values import PolicyVersion
from auxilium_rl.client.single_acting import SingleActing
from auxilium_rl.inference.batches import MODE, ActRequest, FlatWish
from auxilium_rl.inference.policy import OnnxPolicy
from auxilium_rl.inference.refused import Refused
from auxilium_rl.wire.payloads import InvalidPayload, unpack_payload
from generated.auxilium.v1 import policies_pb2 as pb

if TYPE_CHECKING:
    from auxilium_rl.client.client import Client

__all__ = ["LocalPolicy"]

_Make = Callable[[bytes, dict[str, Any]], Any]
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_FINAL = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}


class _Held:
    """One version, whole."""

    def __init__(self, version: PolicyVersion, graph: bytes, description: str, make: _Make | None) -> None:
        told = json.loads(description)
        self.version, self.graph = version, graph
        self.made = None if make is None else make(graph, told)
        self._told = told
        if make is None:
            self.single  # noqa: B018 - with all the others, before it takes the old one's place

    @cached_property
    def encoding(self) -> PolicyEncoding:
        return PolicyEncoding(self._told)

    @cached_property
    def policy(self) -> OnnxPolicy:
        return OnnxPolicy(self.graph, self._told)

    @cached_property
    def single(self) -> SingleActing | None:
        return SingleActing.of(self.policy, self._told, self.encoding)


class LocalPolicy(Acting):
    """Acts in this process with the newest version that has come; a context manager.

    A thread follows the server. While the server is away, or a version comes damaged, the one that is here goes on
    acting. ``act`` never waits for the network.

    Attributes:
        made: what ``make`` made of the version that acts now, and its number.

    Args:
        name: as of ``Policy``.
        timeout: seconds for the first version to come. Raises TimeoutError.
        make: makes of ``policy.onnx`` and ``policy.json`` of each version what ``made`` then gives.
    """

    def __init__(self, client: Client, name: str, timeout: float = 30.0, make: _Make | None = None) -> None:
        self._make = make
        self._client, self._name = client, name
        self._held: _Held | None = None
        self.made: tuple[Any, int] = None, -1
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._call: Any = None
        self._fault: Exception | None = None
        self._taken = 0
        self._thread = threading.Thread(target=self._follow, name="local-policy", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._held is not None or _is_final(self._fault), timeout)
            fault = self._fault
        if self._held is None:
            self.close()
            if fault is not None and _is_final(fault):
                raise fault
            raise TimeoutError(f"no version of {name} came within {timeout:g} s: {fault or 'nothing was heard'}")

    def __enter__(self) -> LocalPolicy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Follow no more; what is here still acts."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()
        self._thread.join()

    @property
    def version(self) -> PolicyVersion:
        """The version that acts now."""
        return self._now.version

    @property
    def fault(self) -> Exception | None:
        """Why nothing newer could be taken, the last time that was tried; None: it could."""
        return self._fault

    @property
    def _now(self) -> _Held:
        assert self._held is not None
        return self._held

    def wait_for(self, version: int, timeout: float) -> bool:
        """Wait until a version, or a later one, is here; False when ``timeout`` seconds passed."""
        with self._changed:
            return self._changed.wait_for(lambda: self.version.version >= version, timeout)

    def act(self, observation: Any, *, action_mask: Any = None, deterministic: bool = True) -> Any:
        """See ``Acting.act``."""
        single = self._now.single
        if single is None or not (deterministic or single.draws):
            return super().act(observation, action_mask=action_mask, deterministic=deterministic)
        return single.act(observation, action_mask, deterministic)

    def _encoded(self) -> PolicyEncoding:
        return self._now.encoding

    def _exchanged(self, request: pb.ActRequest) -> pb.ActResponse:
        deterministic = request.deterministic
        asked = ActRequest(
            "",
            request.count,
            request.observations.slabs,
            request.action_masks,
            request.states,
            MODE if deterministic else FlatWish(deterministic=False),
        )
        try:
            slab, acted = self._now.policy.act_rows(asked)
        except Refused as refused:
            raise ActError(str(refused)) from refused
        return pb.ActResponse(actions=pb.Rows(slabs=[slab]), states=acted.states)

    # -- following

    def _follow(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closed.is_set():
            taken = self._taken
            try:
                self._stream()
            except grpc.RpcError as error:
                failed: grpc.Call = error
                self._note(ClientError(f"{failed.code().name}: {failed.details()}", failed.code()))
            except Exception as error:  # noqa: BLE001 - a version that came damaged; the one that is here goes on
                self._note(error)
            if self._taken != taken:
                pause = _FIRST_PAUSE
            self._closed.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _note(self, fault: Exception) -> None:
        with self._changed:
            self._fault = fault
            self._changed.notify_all()

    def _stream(self) -> None:
        held = self._held
        request = pb.WatchPolicyRequest(
            policy=self._name, with_payload=True, have_sha256=held.version.sha256 if held else ""
        )
        self._call = self._client.policies_stub.WatchPolicy(request)
        for update in self._call:
            self._take(update)
            if self._closed.is_set():
                return

    def _take(self, update: pb.PolicyUpdate) -> None:
        base = self._held.graph if self._held else None
        try:
            graph = unpack_payload(update.graph, base)
        except InvalidPayload:
            whole = pb.DownloadPolicyRequest(policy=f"{update.version.name}@{update.version.version}")
            graph = b"".join(chunk.data for chunk in self._client.policies_stub.DownloadPolicy(whole))
            if hashlib.sha256(graph).hexdigest() != update.graph.sha256:
                raise
        fresh = _Held(PolicyVersion.of(update.version), graph, update.description, self._make)
        with self._changed:
            self._held, self._fault = fresh, None
            self.made = fresh.made, fresh.version.version
            self._taken += 1
            self._changed.notify_all()


def _is_final(fault: Exception | None) -> bool:
    """Whether trying again will not help one who has nothing yet."""
    return isinstance(fault, ClientError) and fault.code in _FINAL
