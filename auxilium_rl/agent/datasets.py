"""Experience as Parquet files, one row a step, and back.

Columns: ``agent``, ``incarnation``, ``episode``, ``step``, ``version``; ``observation``, ``action``, ``reward``,
``terminated``, ``truncated``, ``next_observation`` (null where an episode terminated and nothing was seen),
``log_prob`` (null where unknown) and, where there are masks, ``mask``. Observations and actions are flat lists in C
order, of a Dict a struct of them; whole numbers count from 0. The file's metadata hold ``auxilium.contract``: the
spaces.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.agent.link import Link
from auxilium_rl.agent.outbox import Outbox, Undelivered
from auxilium_rl.client.errors import ClientError, InvalidArgument, translated
from auxilium_rl.wire.agreement import contract_of, spaces_of
from auxilium_rl.wire.chunks import ChunkCodec, Experience, InvalidChunk, Span
from auxilium_rl.wire.rows import AnySpace, Obs
from auxilium_rl.wire.spaces import counted_from_zero, leaves_of, space_message, space_of
from generated.auxilium.v1 import experience_pb2 as pb
from generated.auxilium.v1 import runs_pb2

if TYPE_CHECKING:
    import pyarrow as pa

    from auxilium_rl.client.client import Client

__all__ = ["Summary", "export_experience", "import_experience", "summary"]

_CONTRACT = b"auxilium.contract"
_CHUNK = 512
Transform = Callable[[dict[str, Any]], dict[str, Any] | None]


@dataclass(frozen=True)
class Summary:
    """What agents pushed to a run."""

    agents: int
    steps: int
    episodes: int
    mean_return: float
    mean_length: float
    versions: tuple[int, int]
    """The oldest and the newest that acted."""


def summary(client: Client, run_id: str) -> Summary:
    """What is stored of a run. Raises NotFound, InvalidArgument."""
    codec, _ = _agreed(client, run_id)
    agents, steps, versions = set(), 0, (2**31, -1)
    running: dict[tuple[str, str, int], tuple[float, int]] = {}
    ended: list[tuple[float, int]] = []
    for stored, found in _chunks(client, run_id, codec):
        agents.add(stored.agent_id)
        steps += found.count
        row = 0
        for span in found.spans:
            key = stored.agent_id, stored.incarnation, span.episode
            total, length = running.pop(key, (0.0, 0))
            told = total + float(found.rewards[row : row + span.count].sum()), length + span.count
            row += span.count
            if span.terminated or span.truncated:
                ended.append(told)
            else:
                running[key] = told
            versions = min(versions[0], span.version), max(versions[1], span.version)
    means = np.mean(ended, axis=0) if ended else (0.0, 0.0)
    return Summary(len(agents), steps, len(ended), float(means[0]), float(means[1]), versions if steps else (-1, -1))


def export_experience(client: Client, run_id: str, out: str | Path) -> int:
    """Write all that is stored of a run to a Parquet file; gives the number of steps.

    Raises:
        ClientError: the extra ``parquet`` is not installed.
        NotFound, InvalidArgument.
    """
    arrow, parquet = _arrow()
    codec, contract = _agreed(client, run_id)
    observation, action, mask_len = spaces_of(contract)
    schema = _schema(arrow, observation, action, mask_len).with_metadata({_CONTRACT: contract.encode()})
    target = Path(out)
    aside, steps = target.with_name(f".{target.name}.part"), 0
    with parquet.ParquetWriter(aside, schema, compression="zstd") as writer:
        for stored, found in _chunks(client, run_id, codec):
            writer.write_table(arrow.Table.from_pydict(_columns(stored, found, mask_len), schema))
            steps += found.count
    aside.replace(target)
    return steps


def import_experience(
    client: Client, run_id: str, source: str | Path, *, transform: Transform | None = None, timeout: float = 600.0
) -> int:
    """Push the steps of a Parquet file to an off-policy run, as one more agent; gives their number.

    Args:
        transform: called with each row, a dict of the columns; gives it back, changed or not, or None to leave it out
            (the rest of its episode then becomes another one).

    Raises:
        InvalidArgument: the file has no experience, or of other spaces than the run; a row is none of them.
        Undelivered: not everything was stored within ``timeout`` seconds.
        ClientError: the extra ``parquet`` is not installed; the run has ended.
    """
    _, parquet = _arrow()
    codec, contract = _agreed(client, run_id)
    try:
        file = parquet.ParquetFile(source)
    except (OSError, ValueError) as error:
        raise InvalidArgument.of(str(source), str(error)) from error
    told = (file.schema_arrow.metadata or {}).get(_CONTRACT, b"").decode()
    if told != contract:
        theirs = "those of another contract" if told else "unknown"
        raise InvalidArgument.of(str(source), f"its spaces are {theirs}; the run has {contract}")
    observation, action, mask_len = spaces_of(contract)
    outbox = Outbox(10 * _CHUNK, None)
    name = uuid.uuid4().hex
    join = pb.Join(
        run_id=run_id,
        agent_id=f"import {Path(source).name:.80} {name[:8]}",
        incarnation=name,
        observation=space_message(observation),
        action=space_message(action),
        mask_len=mask_len,
    )
    link = Link(client.experience_stub, client.address, join, outbox)
    try:
        if link.wait_for_welcome(timeout).on_policy:
            raise InvalidArgument.of("run_id", "it learns on-policy, from what its own versions did")
        steps = 0
        for part in _parts(file, transform):
            experience = _experience(part, observation, action, mask_len)
            chunk = codec.encode(outbox.next_seq, experience)
            try:
                codec.decode(chunk)
            except InvalidChunk as wrong:
                raise InvalidArgument.of(str(source), f"after step {steps}: {wrong}") from wrong
            with outbox.changed:
                outbox.changed.wait_for(lambda: not outbox.is_full or bool(link.ended) or link.final, timeout)
            outbox.put(chunk)
            steps += experience.count
        if not outbox.drained(timeout):
            raise Undelivered(outbox.steps, f"{outbox.steps} steps were not stored within {timeout:g} s")
    finally:
        link.close()
    return steps


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as missing:
        raise ClientError("Parquet needs pyarrow: pip install 'auxilium-rl[parquet]'") from missing
    return pyarrow, pyarrow.parquet


def _agreed(client: Client, run_id: str) -> tuple[ChunkCodec, str]:
    environment = client.call(client.runs_stub.GetRun, runs_pb2.GetRunRequest(run_id=run_id)).environment
    if environment.uri != "agents":
        raise InvalidArgument.of("run_id", f"it is on '{environment.uri}'; agents pushed nothing")
    observation = space_of(environment.observation_space, "observation_space")
    action = space_of(environment.action_space, "action_space")
    mask_len = environment.mask_len
    return ChunkCodec(observation, action, mask_len), contract_of(observation, action, mask_len)


def _chunks(client: Client, run_id: str, codec: ChunkCodec) -> Iterator[tuple[pb.StoredChunk, Experience]]:
    with translated(client.address):
        for stored in client.experience_stub.ReadExperience(pb.ReadExperienceRequest(run_id=run_id)):
            yield stored, codec.decode(stored.chunk)


def _schema(arrow: Any, observation: AnySpace, action: AnySpace, mask_len: int) -> pa.Schema:
    def of(space: AnySpace, *, of_action: bool = False) -> Any:
        leaves = leaves_of(counted_from_zero(space), action=of_action)
        kinds = {leaf.key: arrow.list_(arrow.from_numpy_dtype(leaf.dtype)) for leaf in leaves}
        return kinds[""] if "" in kinds else arrow.struct(list(kinds.items()))

    fields = [
        ("agent", arrow.string()),
        ("incarnation", arrow.string()),
        ("episode", arrow.int64()),
        ("step", arrow.int64()),
        ("version", arrow.int32()),
        ("observation", of(observation)),
        ("action", of(action, of_action=True)),
        ("reward", arrow.float32()),
        ("terminated", arrow.bool_()),
        ("truncated", arrow.bool_()),
        ("next_observation", of(observation)),
        ("log_prob", arrow.float32()),
    ]
    return arrow.schema([*fields, ("mask", arrow.list_(arrow.bool_()))] if mask_len else fields)


def _columns(stored: pb.StoredChunk, found: Experience, mask_len: int) -> dict[str, Any]:
    seen = _listed(found.observations, found.count)
    following = iter(_listed(found.following, sum(span.has_following for span in found.spans)))
    columns: dict[str, list[Any]] = {name: [] for name in ("episode", "step", "version", "terminated", "truncated")}
    after: list[Any] = []
    for span in found.spans:
        first = len(after)
        columns["episode"] += [span.episode] * span.count
        columns["step"] += range(span.start, span.start + span.count)
        columns["version"] += [span.version] * span.count
        for name in ("terminated", "truncated"):
            columns[name] += [False] * (span.count - 1) + [getattr(span, name)]
        after += seen[first + 1 : first + span.count]
        after.append(next(following) if span.has_following else None)
    told = {
        "agent": [stored.agent_id] * found.count,
        "incarnation": [stored.incarnation] * found.count,
        **columns,
        "observation": seen,
        "action": _listed(found.actions, found.count),
        "reward": found.rewards.tolist(),
        "next_observation": after,
        "log_prob": [None] * found.count if found.log_probs is None else found.log_probs.tolist(),
    }
    if mask_len:
        told["mask"] = [None] * found.count if found.masks is None else found.masks.tolist()
    return told


def _listed(rows: Obs, count: int) -> list[Any]:
    """A flat list for each row, of a Dict a map of them."""
    if isinstance(rows, dict):
        leaves = {key: _listed(leaf, count) for key, leaf in rows.items()}
        return [{key: leaf[row] for key, leaf in leaves.items()} for row in range(count)]
    flat: list[Any] = rows.reshape(count, -1).tolist()
    return flat


def _parts(file: Any, transform: Transform | None) -> Iterator[list[dict[str, Any]]]:
    """Rows in lots of at most a chunk."""
    part: list[dict[str, Any]] = []
    for batch in file.iter_batches(_CHUNK):
        for row in batch.to_pylist():
            kept = row if transform is None else transform(row)
            if kept is not None:
                part.append(kept)
            if len(part) == _CHUNK:
                yield part
                part = []
    if part:
        yield part


def _experience(part: list[dict[str, Any]], observation: AnySpace, action: AnySpace, mask_len: int) -> Experience:
    spans: list[Span] = []
    following: list[Any] = []
    first = 0
    for number, row in enumerate(part):
        ends = row["terminated"] or row["truncated"]
        after = part[number + 1] if number + 1 < len(part) else None
        if ends or after is None or not _goes_on(row, after):
            seen = row["next_observation"]
            begin = part[first]
            spans.append(
                Span(
                    _episode(begin),
                    begin["step"],
                    number + 1 - first,
                    max(begin["version"], 0),
                    row["terminated"],
                    row["truncated"],
                    seen is not None,
                )
            )
            following += [] if seen is None else [seen]
            first = number + 1
    log_probs = [row.get("log_prob") for row in part]
    masks = [row.get("mask") for row in part]
    given = None if not mask_len or None in masks else np.array(masks, bool)
    return Experience(
        len(part),
        spans,
        _stacked([row["observation"] for row in part], counted_from_zero(observation)),
        _stacked(following, counted_from_zero(observation)),
        _stacked([row["action"] for row in part], counted_from_zero(action), of_action=True),  # type: ignore[arg-type]
        np.array([row["reward"] for row in part], np.float32),
        None if None in log_probs else np.array(log_probs, np.float32),
        None,
        given,
    )


def _goes_on(row: dict[str, Any], after: dict[str, Any]) -> bool:
    same = all(row[name] == after[name] for name in ("agent", "incarnation", "episode", "version"))
    return same and after["step"] == row["step"] + 1


def _episode(row: dict[str, Any]) -> int:
    """Numbers of several agents must not meet: they are one agent's now."""
    told = f"{row['agent']}/{row['incarnation']}/{row['episode']}"
    return uuid.uuid5(uuid.NAMESPACE_OID, told).int >> 66


def _stacked(rows: list[Any], space: AnySpace, *, of_action: bool = False) -> Obs:
    if isinstance(space, spaces.Dict):
        return {key: _leaf([row[key] for row in rows], leaf, of_action) for key, leaf in space.spaces.items()}
    return _leaf(rows, space, of_action)


def _leaf(rows: list[Any], space: AnySpace, of_action: bool) -> npt.NDArray[Any]:
    (leaf,) = leaves_of(space, action=of_action)
    return np.array(rows, leaf.dtype).reshape((len(rows), *leaf.shape))
