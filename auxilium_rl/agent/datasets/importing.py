"""Experience from Parquet files into a run."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.agent.datasets.parquet import CONTRACT, arrow_of
from auxilium_rl.agent.datasets.source import Source
from auxilium_rl.agent.link import Link
from auxilium_rl.agent.outbox import Outbox, Undelivered
from auxilium_rl.agent.packing import own_buffer, steps_that_fit
from auxilium_rl.client.errors import InvalidArgument
from auxilium_rl.wire.chunks import Experience, InvalidChunk, Span
from auxilium_rl.wire.rows import AnySpace, Obs
from auxilium_rl.wire.spaces import counted_from_zero, leaves_of, space_message
from generated.auxilium.v1 import experience_pb2 as pb

if TYPE_CHECKING:
    from auxilium_rl.client.client import Client

__all__ = ["Transform", "import_experience"]

_CHUNK = 512
Transform = Callable[[dict[str, Any]], dict[str, Any] | None]


def import_experience(
    client: Client,
    run_id: str,
    source: str | Path,
    *,
    transform: Transform | None = None,
    buffer: str = "",
    timeout: float = 600.0,
) -> int:
    """Push the steps of a Parquet file to an off-policy run, as one more agent; gives their number.

    Args:
        transform: called with each row, a dict of the columns; gives it back, changed or not, or None to leave it out
            (the rest of its episode then becomes another one).
        buffer: of the run's replay buffers; empty: its own, whose steps count as the run's timesteps.

    Raises:
        InvalidArgument: the file has no experience, or of other spaces than the run; a row is none of them.
        Undelivered: not everything was stored within ``timeout`` seconds.
        ClientError: the extra ``parquet`` is not installed; the run has ended.
    """
    _, parquet = arrow_of()
    run = Source.of(client, run_id)
    codec, observation, action, mask_len = run.codec, run.observation, run.action, run.mask_len
    try:
        file = parquet.ParquetFile(source)
    except (OSError, ValueError) as error:
        raise InvalidArgument.of(str(source), str(error)) from error
    told = (file.schema_arrow.metadata or {}).get(CONTRACT, b"").decode()
    if told != run.contract:
        theirs = "those of another contract" if told else "unknown"
        raise InvalidArgument.of(str(source), f"its spaces are {theirs}; the run has {run.contract}")
    outbox = Outbox(10 * _CHUNK, None)
    name = uuid.uuid4().hex
    join = pb.Join(
        run_id=run_id,
        agent_id=f"import {Path(source).name:.80} {name[:8]}",
        incarnation=name,
        observation=space_message(observation),
        action=space_message(action),
        mask_len=mask_len,
        buffer=own_buffer(buffer),
    )
    link = Link(client.experience_stub, client.address, join, outbox)
    try:
        welcome = link.wait_for_welcome(timeout)
        if welcome.on_policy:
            raise InvalidArgument.of("run_id", "it learns on-policy, from what its own versions did")
        most = min(steps_that_fit(observation, action, mask_len, welcome.max_chunk_bytes), _CHUNK)
        steps = 0
        for part in _parts(file, most, transform):
            experience = _experience(part, observation, action, mask_len)
            request = pb.PushRequest()
            codec.encode(outbox.next_seq, experience, buffer=own_buffer(buffer), into=request.chunk)
            try:
                codec.check(request.chunk)
            except InvalidChunk as wrong:
                raise InvalidArgument.of(str(source), f"after step {steps}: {wrong}") from wrong
            with outbox.changed:
                outbox.changed.wait_for(lambda: not outbox.is_full or bool(link.ended) or link.final, timeout)
            outbox.put(request)
            steps += experience.count
        if not outbox.drained(timeout):
            raise Undelivered(outbox.steps, f"{outbox.steps} steps were not stored within {timeout:g} s")
    finally:
        link.close()
    return steps


def _parts(file: Any, most: int, transform: Transform | None) -> Iterator[list[dict[str, Any]]]:
    """Rows in lots of at most ``most``."""
    part: list[dict[str, Any]] = []
    for batch in file.iter_batches(_CHUNK):
        for row in batch.to_pylist():
            kept = row if transform is None else transform(row)
            if kept is not None:
                part.append(kept)
            if len(part) == most:
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
