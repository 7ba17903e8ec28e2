"""Experience as Parquet files, one row a step.

Columns: ``agent``, ``incarnation``, ``episode``, ``step``, ``version``; ``observation``, ``action``, ``reward``,
``terminated``, ``truncated``, ``next_observation`` (null where an episode terminated and nothing was seen),
``log_prob`` (null where unknown) and, where there are masks, ``mask``. Observations and actions are flat lists in C
order, of a Dict a struct of them; whole numbers count from 0. The file's metadata hold ``auxilium.contract``: the
spaces.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auxilium_rl.agent.datasets.extras import needed
from auxilium_rl.agent.datasets.place import free, new_place
from auxilium_rl.agent.datasets.source import Source
from auxilium_rl.wire.chunks import Experience
from auxilium_rl.wire.rows import AnySpace, Obs
from auxilium_rl.wire.spaces import counted_from_zero, leaves_of
from generated.auxilium.v1 import experience_pb2 as pb

if TYPE_CHECKING:
    import pyarrow as pa

    from auxilium_rl.client.client import Client

__all__ = ["CONTRACT", "arrow_of", "export_experience"]

CONTRACT = b"auxilium.contract"
"""Of a file's metadata: the spaces."""


def export_experience(client: Client, run_id: str, out: str | Path) -> int:
    """Write all that is stored of a run to a Parquet file; gives the number of steps.

    Raises:
        ClientError: the extra ``parquet`` is not installed.
        InvalidArgument: ``out`` exists already, or lies nowhere; agents push nothing to the run.
        NotFound: there is no such run.
    """
    place = Path(out)
    free(place)
    arrow, parquet = arrow_of()
    source = Source.of(client, run_id)
    schema = _schema(arrow, source).with_metadata({CONTRACT: source.contract.encode()})
    steps = 0
    with new_place(place) as aside, parquet.ParquetWriter(aside, schema, compression="zstd") as writer:
        for stored, found in source.chunks():
            writer.write_table(arrow.Table.from_pydict(_columns(stored, found, source.mask_len), schema))
            steps += found.count
    return steps


def arrow_of() -> tuple[Any, Any]:
    """pyarrow and its Parquet. Raises ClientError."""
    arrow, parquet = needed("parquet", "Parquet", "pyarrow", "pyarrow.parquet")
    return arrow, parquet


def _schema(arrow: Any, source: Source) -> pa.Schema:
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
        ("observation", of(source.observation)),
        ("action", of(source.action, of_action=True)),
        ("reward", arrow.float32()),
        ("terminated", arrow.bool_()),
        ("truncated", arrow.bool_()),
        ("next_observation", of(source.observation)),
        ("log_prob", arrow.float32()),
    ]
    return arrow.schema([*fields, ("mask", arrow.list_(arrow.bool_()))] if source.mask_len else fields)


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
    flat: list[Any] = rows.reshape(count, math.prod(rows.shape[1:])).tolist()
    return flat
