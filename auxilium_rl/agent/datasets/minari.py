"""Experience as a Minari dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auxilium_rl.agent.datasets.exported import Exported, Tally
from auxilium_rl.agent.datasets.extras import needed
from auxilium_rl.agent.datasets.place import free, new_place
from auxilium_rl.agent.datasets.source import Source
from auxilium_rl.agent.datasets.trajectories import Trajectory, plain_keys, trajectories
from auxilium_rl.client.errors import InvalidArgument

if TYPE_CHECKING:
    from auxilium_rl.client.client import Client

__all__ = ["export_minari"]


def export_minari(client: Client, run_id: str, out: str | Path, *, dataset_id: str | None = None) -> Exported:
    """Write all that is stored of a run as a Minari dataset (HDF5), one episode after another.

    ``minari.load_dataset(dataset_id)`` finds it where ``MINARI_DATASETS_PATH`` is ``out``; so does
    ``minari.MinariDataset(out / dataset_id / "data")``.

    Observations are ``(n + 1, *shape)`` and actions ``(n, *shape)`` in the dtypes of the spaces, with their ``start``;
    rewards ``(n,)`` float32; pictures are stored as they are, not as JPEG. ``infos`` are ``(n + 1, …)``, row ``t`` of
    action ``t`` and the last of none: ``version``, ``log_prob`` (NaN where unknown), ``mask`` where there are masks,
    and of a Box ``drawn_action``, what ``log_prob`` is of: the action before it was clipped. An episode's metadata say
    ``agent``, ``incarnation``, ``episode``, ``first_step`` (above 0: those before are not stored), ``unfinished`` and
    ``final_observation_seen``.

    An episode that had not ended is truncated after its last step, and is ``unfinished``. Of one that terminated and
    whose last observation was not sent, the last is the element of the space that is nearest to zero, and
    ``final_observation_seen`` is false: nothing should be learned from it, and of a terminated step nothing need be.

    Args:
        out: a folder of Minari datasets; it is made where there is none.
        dataset_id: ``auxilium/RUN-v0`` where none is given.

    Raises:
        ClientError: the extra ``minari`` is not installed.
        InvalidArgument: Minari refuses the id; the dataset exists already; the run has no experience.
        NotFound: there is no such run.
    """
    library = needed("minari", "Minari", "minari", "h5py")[0]
    name = f"auxilium/{run_id}-v0" if dataset_id is None else dataset_id
    place = _place(Path(out), name)
    source = Source.of(client, run_id)
    plain_keys(source.observation, "Minari")
    place.parent.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    with new_place(place) as aside:
        aside.mkdir()
        storage = _storage(library, aside / "data", source, name)
        about: list[dict[str, Any]] = []
        storage.update_episodes(_buffers(tally.over(trajectories(source)), about))
        storage.update_episode_metadata(about)
        return tally.exported(place)


def _place(out: Path, dataset_id: str) -> Path:
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except (TypeError, ValueError) as error:  # TypeError: it has no version
        accepted = "NAME-v0 or NAMESPACE/NAME-v0, of letters, digits, - and _, is accepted"
        raise InvalidArgument.of("dataset_id", f"'{dataset_id}' given; {accepted}") from error
    if not out.is_dir():
        free(out)
    place = out / dataset_id
    if place.exists():
        raise InvalidArgument.of("out", f"{place} exists already; another folder or dataset_id is accepted")
    return place


def _storage(library: Any, path: Path, source: Source, dataset_id: str) -> Any:
    from minari.dataset.minari_storage import MinariStorage

    storage = MinariStorage.new(path, source.observation, source.action, data_format="hdf5", jpeg_encoding=False)
    storage.update_metadata(
        {
            "dataset_id": dataset_id,
            "minari_version": library.__version__,
            "algorithm_name": source.algorithm,
            "description": f"What agents pushed to the run {source.run_id} of Auxilium RL.",
        }
    )
    return storage


def _buffers(found: Iterable[Trajectory], about: list[dict[str, Any]]) -> Iterator[Any]:
    """One at a time; Minari takes what is said of them afterwards, so that is noted in ``about``."""
    from minari.data_collector import EpisodeBuffer

    for one in found:
        about.append(one.about)
        yield EpisodeBuffer(
            observations=one.observations,
            actions=one.actions,
            rewards=one.rewards,
            terminations=_last(one.count, one.terminated),
            truncations=_last(one.count, not one.terminated),
            infos=one.infos,
        )


def _last(count: int, value: bool) -> Any:
    return np.arange(count) == count - 1 if value else np.zeros(count, bool)
