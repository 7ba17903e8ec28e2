"""A policy, from the outside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from auxilium_rl.client.acting import Acting
from auxilium_rl.client.errors import ClientError, ServerUnavailable, translated
from auxilium_rl.client.policy_values import Episode, Evaluation, PolicyInfo, PolicyVersion
from auxilium_rl.client.start_request import other_environment
from generated.auxilium.v1 import policies_pb2 as pb

if TYPE_CHECKING:
    from auxilium_rl.client.client import Client
    from auxilium_rl.client.fast_policy import FastPolicy
    from auxilium_rl.client.local_policy import LocalPolicy
    from auxilium_rl.client.policy_encoding import PolicyEncoding

__all__ = ["Policy"]


class Policy(Acting):
    """A policy on a server.

    Attributes:
        client: the connection.

    Args:
        name: ``name`` (its newest version), ``name@3``, ``name@best``, or a run's id.
    """

    def __init__(self, client: Client, name: str) -> None:
        self.client, self.name = client, name
        self._stub = client.policies_stub
        self._encoding: PolicyEncoding | None = None

    def __repr__(self) -> str:
        return f"Policy({self.name!r})"

    # -- what it is

    def version(self) -> PolicyVersion:
        """The version that the name means now. Raises NotFound."""
        return PolicyVersion.of(self.client.call(self._stub.GetVersion, pb.GetVersionRequest(policy=self.name)))

    def info(self) -> PolicyInfo:
        """The policy with all its versions. Raises NotFound."""
        return PolicyInfo.of(self.client.call(self._stub.GetPolicy, pb.GetPolicyRequest(name=self._base)))

    @property
    def _base(self) -> str:
        return self.name.partition("@")[0]

    def set_alias(self, alias: str, version: int) -> PolicyInfo:
        """Move an alias to a version, or make it."""
        request = pb.SetAliasRequest(name=self._base, alias=alias, version=version)
        return PolicyInfo.of(self.client.call(self._stub.SetAlias, request))

    def delete_alias(self, alias: str) -> PolicyInfo:
        """Forget an alias."""
        return PolicyInfo.of(
            self.client.call(self._stub.DeleteAlias, pb.DeleteAliasRequest(name=self._base, alias=alias))
        )

    def update(
        self,
        *,
        set_tags: Mapping[str, str] | None = None,
        remove_tags: Sequence[str] = (),
        notes: str | None = None,
        criterion: str = "",
    ) -> PolicyInfo:
        """Change tags, notes, or the number by which ``best`` is chosen.

        Args:
            criterion: ``mean_return``, ``mean_length``, ``success_rate`` or a KPI; with ``-`` before it where lower is
                better; empty: as it is.
        """
        request = pb.UpdatePolicyRequest(name=self._base, set_tags=set_tags, remove_tags=remove_tags, notes=notes)
        if criterion:
            request.criterion.CopyFrom(
                pb.Criterion(key=criterion.removeprefix("-"), minimize=criterion.startswith("-"))
            )
        return PolicyInfo.of(self.client.call(self._stub.UpdatePolicy, request))

    def delete_version(self, version: int) -> PolicyInfo:
        """Forget a version, which nothing points to and nobody follows."""
        request = pb.DeleteVersionRequest(name=self._base, version=version)
        return PolicyInfo.of(self.client.call(self._stub.DeleteVersion, request))

    def delete(self) -> int:
        """Forget the policy with all its versions; gives the bytes that were freed."""
        request = pb.DeletePolicyRequest(name=self._base)
        return int(self.client.call(self._stub.DeletePolicy, request).bytes_freed)

    # -- acting

    def fast(self, *, spin: bool = False) -> FastPolicy:
        """The policy over the fast lane, for programs on the server's machine.

        Args:
            spin: look for answers for up to 200 µs before sleeping for them; takes a core meanwhile.

        Raises:
            ClientError: the server does not offer it to this program.
        """
        from auxilium_rl.client.fast_policy import FastPolicy

        return FastPolicy(self.client, self.name, self._encoded(), spin=spin)

    def _exchanged(self, request: pb.ActRequest) -> pb.ActResponse:
        request.policy = self.name
        return self.client.call(self._stub.Act, request)  # type: ignore[no-any-return]

    def _encoded(self) -> PolicyEncoding:
        if self._encoding is None:
            from auxilium_rl.client.policy_encoding import PolicyEncoding

            self._encoding = PolicyEncoding(json.loads(self.read("policy.json")))
        return self._encoding

    # -- evaluation

    def evaluate(
        self,
        episodes: int = 10,
        *,
        env: str = "",
        gym_ids: Sequence[str] = (),
        lanes: int = 0,
        deterministic: bool = True,
        seed: int | None = None,
        max_steps: int = 0,
        on_episode: Callable[[Episode], None] = lambda _: None,
    ) -> Evaluation:
        """Play episodes on the server's side; what they come to is kept with the version.

        Args:
            env: where, with its ``gym_ids`` and ``lanes``; empty: where its run trained.
            seed: None: drawn.
            on_episode: called with each.

        Raises:
            InvalidArgument, NotFound.
            ClientError: the simulator failed in the middle; nothing was kept.
        """
        request = pb.EvaluateRequest(
            policy=self.name,
            episodes=episodes,
            environment=other_environment(env, gym_ids, lanes),
            deterministic=deterministic,
            seed=seed,
            max_steps=max_steps,
        )
        with translated(self.client.address):
            for event in self._stub.Evaluate(request):
                if event.HasField("evaluation"):
                    return Evaluation.of(event.evaluation)
                on_episode(Episode.of(event.episode))
        raise ServerUnavailable(f"the server at {self.client.address} ended before the evaluation did")

    # -- taking it away

    def read(self, file: str = "policy.onnx") -> bytes:
        """A file of the version, its hash checked. A server that goes away is waited for, and the rest fetched."""
        now = self.version()  # which the name may not mean any more in the middle
        data, sha256, size, lost = bytearray(), "", -1, False
        while len(data) != size:
            before = len(data)
            request = pb.DownloadPolicyRequest(
                policy=f"{now.name}@{now.version}", file=file, offset=before, sha256=sha256
            )
            try:
                with translated(self.client.address):
                    for chunk in self._stub.DownloadPolicy(request):
                        data += chunk.data
                        sha256, size = chunk.sha256, chunk.size
            except ServerUnavailable:
                if len(data) == before:  # not even one chunk; else whoever is there may send the rest
                    if lost:
                        raise
                    lost = True
                self.version()  # waits for it
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise ClientError(f"{file} of {self.name} came with sha256 {found}; {sha256} was announced")
        return bytes(data)

    def download(self, target: str | Path, file: str = "policy.onnx") -> Path:
        """Write a file of the version to ``target``; nothing is there before all of it is."""
        path = Path(target)
        aside = path.with_name(f".{path.name}.part")
        aside.write_bytes(self.read(file))
        aside.replace(path)
        return path

    def watch(self) -> Iterator[PolicyVersion]:
        """The version that the name means now, and whenever it means another one: the newest, never a backlog."""
        call = self._stub.WatchPolicy(pb.WatchPolicyRequest(policy=self.name))
        try:
            with translated(self.client.address):
                for update in call:
                    yield PolicyVersion.of(update.version)
        finally:
            call.cancel()

    def local(self, *, timeout: float = 30.0) -> LocalPolicy:
        """The policy in this process, which follows the one on the server and never waits for it.

        Args:
            timeout: seconds for its first version to come. Raises TimeoutError.
        """
        from auxilium_rl.client.local_policy import LocalPolicy

        return LocalPolicy(self.client, self.name, timeout)
