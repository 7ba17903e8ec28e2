"""Experience as an RLDS dataset of TensorFlow Datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from auxilium_rl.agent.datasets.exported import Exported, Tally
from auxilium_rl.agent.datasets.extras import needed
from auxilium_rl.agent.datasets.place import free, new_place
from auxilium_rl.agent.datasets.source import Source
from auxilium_rl.agent.datasets.trajectories import Trajectory, filler, plain_keys, trajectories
from auxilium_rl.wire.rows import AnySpace, take

if TYPE_CHECKING:
    from auxilium_rl.client.client import Client

__all__ = ["export_rlds"]

_EPISODES_A_FILE = 1000


def export_rlds(client: Client, run_id: str, out: str | Path) -> Exported:
    """Write all that is stored of a run as RLDS, one episode after another, in the split ``train``.

    ``tfds.builder_from_directory(out)`` loads it. ``n`` steps become ``n + 1``: the last has the observation after
    them, ``is_last``, and ``is_terminal`` where the episode terminated; its reward and discount are 0, its action is
    the element of the space that is nearest to zero, and none of them mean anything. ``discount`` is 0 where the
    episode terminated and else 1. Observations and actions have the dtypes of the spaces, with their ``start``. Steps
    also have ``version``, ``log_prob`` (NaN where unknown), ``mask`` where there are masks, and of a Box
    ``drawn_action``, what ``log_prob`` is of: the action before it was clipped. Episodes have ``agent``,
    ``incarnation``, ``episode``, ``first_step``, ``unfinished`` and ``final_observation_seen``.

    An episode that had not ended is truncated after its last step, and is ``unfinished``. Of one that terminated and
    whose last observation was not sent, the last is the element of the space that is nearest to zero, and
    ``final_observation_seen`` is false. ``is_first`` is nowhere true in one whose first steps are not stored.

    Args:
        out: the folder of the dataset; a new one.

    Raises:
        ClientError: the extra ``rlds`` is not installed.
        InvalidArgument: ``out`` exists already, or lies nowhere; the run has no experience.
        NotFound: there is no such run.
    """
    place = Path(out)
    free(place)
    tfds, tensorflow = needed("rlds", "RLDS", "tensorflow_datasets", "tensorflow")
    source = Source.of(client, run_id)
    plain_keys(source.observation, "RLDS")
    tally = Tally()
    examples = _examples(tally.over(trajectories(source)), source.action)
    with new_place(place) as aside:
        aside.mkdir()
        try:
            writer = tfds.core.SequentialWriter(_info(tfds, source, aside), _EPISODES_A_FILE)
            writer.initialize_splits(["train"])
            writer.add_examples({"train": examples})  # an iterator will do: one episode at a time is in memory
            writer.close_all()
        except tensorflow.errors.OpError as error:
            raise OSError(error.message) from error
        return tally.exported(place)


def _info(tfds: Any, source: Source, folder: Path) -> Any:
    from tensorflow_datasets.rlds import rlds_base

    features = tfds.features
    steps = {"version": features.Scalar(np.int32), "log_prob": features.Scalar(np.float32)}
    if source.mask_len:
        steps["mask"] = features.Tensor(shape=(source.mask_len,), dtype=np.bool_)
    if isinstance(source.action, spaces.Box):
        steps["drawn_action"] = features.Tensor(shape=source.action.shape, dtype=np.float32)
    config = rlds_base.DatasetConfig(
        name="agents",
        overall_description=f"What agents pushed to the run {source.run_id} of Auxilium RL ({source.algorithm}).",
        observation_info=_feature(features, source.observation),
        action_info=_feature(features, source.action),
        reward_info=features.Scalar(np.float32),
        discount_info=features.Scalar(np.float32),
        step_metadata_info=steps,
        episode_metadata_info={
            "agent": features.Text(),
            "incarnation": features.Text(),
            "episode": features.Scalar(np.int64),
            "first_step": features.Scalar(np.int64),
            "unfinished": features.Scalar(np.bool_),
            "final_observation_seen": features.Scalar(np.bool_),
        },
    )
    identity = tfds.core.DatasetIdentity(
        name=f"auxilium_{source.run_id}", version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=""
    )
    return rlds_base.build_info(config, identity)


def _feature(features: Any, space: AnySpace) -> Any:
    if isinstance(space, spaces.Dict):
        return features.FeaturesDict({key: _feature(features, leaf) for key, leaf in space.spaces.items()})
    dtype, shape = np.dtype(space.dtype), tuple(space.shape or ())
    kind = features.Encoding.NONE
    if dtype == np.float64:
        kind = features.Encoding.BYTES  # the records' own numbers are float32 and int64
    elif dtype == np.uint8 and len(shape) > 1:
        kind = features.Encoding.ZLIB  # pictures: as numbers every byte would take up to two
    return features.Tensor(shape=shape, dtype=dtype.type, encoding=kind)


def _examples(found: Iterable[Trajectory], action: AnySpace) -> Iterator[dict[str, Any]]:
    nothing = filler(action)
    for one in found:
        yield {"steps": _steps(one, nothing), **one.about}


def _steps(one: Trajectory, nothing: Any) -> Iterator[dict[str, Any]]:
    for number in range(one.count + 1):
        over = number == one.count
        ends = one.terminated and number == one.count - 1
        yield {
            "observation": take(one.observations, number),
            "action": nothing if over else one.actions[number],
            "reward": np.float32(0 if over else one.rewards[number]),
            "discount": np.float32(0 if over or ends else 1),
            "is_first": one.first_step + number == 0,
            "is_last": over,
            "is_terminal": over and one.terminated,
            **take(one.infos, number),  # type: ignore[dict-item]
        }
