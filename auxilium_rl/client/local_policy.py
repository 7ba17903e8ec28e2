"""A policy in the caller's own process, kept up to date from the server."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc

from auxilium_rl.client.errors import ActError, ClientError
from auxilium_rl.client.policy import PolicyEpisode
from auxilium_rl.client.policy_encoding import PolicyEncoding
from auxilium_rl.client.policy_values import PolicyVersion
from auxilium_rl.inference.batches import ActRequest, FlatWish
from auxilium_rl.inference.policy import OnnxPolicy
from auxilium_rl.inference.refused import Refused
from auxilium_rl.wire.payloads import InvalidPayload, unpack_payload
from generated.auxilium.v1 import policies_pb2 as pb

if TYPE_CHECKING:
    from auxilium_rl.client.client import Client

__all__ = ["LocalPolicy"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class _Held:
    """One version, whole."""

    def __init__(self, version: PolicyVersion, graph: bytes, description: str) -> None:
        told = json.loads(description)
        self.version, self.graph = version, graph
        self.encoding, self.policy = PolicyEncoding(told), OnnxPolicy(graph, told)


class LocalPolicy:
    """Acts in this process with the newest version that has come; a context manager.

    A thread follows the server. While the server is away, or a version comes damaged, the one that is here goes on
    acting. ``act`` never waits for the network.

    Args:
        name: as of ``Policy``.
        timeout: seconds for the first version to come. Raises TimeoutError.
    """

    def __init__(self, client: Client, name: str, timeout: float = 30.0) -> None:
        self._client, self._name = client, name
        self._held: _Held | None = None
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._call: Any = None
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name="local-policy", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._held is not None or self._fault is not None, timeout)
        if self._held is None:
            self.close()
            raise self._fault or TimeoutError(f"no version of {name} came within {timeout:g} s")

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
        assert self._held is not None
        return self._held.version

    def wait_for(self, version: int, timeout: float) -> bool:
        """Wait until a version, or a later one, is here; False when ``timeout`` seconds passed."""
        with self._changed:
            return self._changed.wait_for(lambda: self.version.version >= version, timeout)

    def act(self, observation: Any, *, action_mask: Any = None, deterministic: bool = True) -> Any:
        """The action for one observation, both as the environment has them. Raises ActError."""
        return self._acted([observation], action_mask, deterministic, ())[0][0]

    def episode(self, *, deterministic: bool = True) -> PolicyEpisode:
        """Acts through one episode, for policies that remember and those that do not."""

        def ask(observation: Any, state: bytes, mask: Any) -> tuple[Any, bytes]:
            held = self._held
            assert held is not None
            states = (state,) if held.encoding.remembers else ()
            actions, after = self._acted([observation], mask, deterministic, states)
            return actions[0], after[0] if after else b""

        return PolicyEpisode(ask)

    def act_many(self, observations: Sequence[Any], *, action_masks: Any = None, deterministic: bool = True) -> Any:
        """Actions ``(n, *shape)`` for many observations. Raises ActError."""
        return self._acted(observations, action_masks, deterministic, ())[0]

    def _acted(
        self, observations: Sequence[Any], masks: Any, deterministic: bool, states: Sequence[bytes]
    ) -> tuple[Any, Sequence[bytes]]:
        held = self._held
        assert held is not None
        try:
            message = held.encoding.request(observations, masks, deterministic, states)
            wish = FlatWish(deterministic=deterministic)
            request = ActRequest("", message.count, message.observations.slabs, message.action_masks, states, wish)
            slab, acted = held.policy.act_rows(request)
        except (TypeError, ValueError) as wrong:
            why = wrong.description if isinstance(wrong, Refused) else str(wrong)
            raise ActError(f"{why}; the policy's observations are {held.encoding.observation}") from wrong
        return held.encoding.actions(pb.Rows(slabs=[slab]), len(observations)), list(acted.states)

    # -- following

    def _follow(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closed.is_set():
            try:
                self._stream()
                pause = _FIRST_PAUSE
            except InvalidPayload:
                pass  # asked for whole at once
            except grpc.RpcError as error:
                failed: grpc.Call = error
                if failed.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT} and not self._held:
                    self._give_up(ClientError(str(failed.details()), failed.code()))
                    return
                self._closed.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

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
        fresh = _Held(PolicyVersion.of(update.version), graph, update.description)
        with self._changed:
            self._held = fresh
            self._changed.notify_all()

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            self._fault = error
            self._changed.notify_all()
