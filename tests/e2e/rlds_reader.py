"""Runs in an environment of its own: TensorFlow Datasets reads a folder and tells as JSON what is there."""

from __future__ import annotations

import json
import sys

import tensorflow_datasets as tfds


def main() -> None:
    episodes = tfds.builder_from_directory(sys.argv[1]).as_dataset(split="train")
    print(json.dumps([told(episode) for episode in episodes]))


def told(episode):
    """The steps, and what is said of the episode."""
    steps = [
        {name: whole(value) if name in {"observation", "action"} else value.tolist() for name, value in step.items()}
        for step in episode.pop("steps").as_numpy_iterator()
    ]
    about = {name: value.numpy() for name, value in episode.items()}
    return {
        "steps": steps,
        **{name: value.decode() if isinstance(value, bytes) else value.item() for name, value in about.items()},
    }


def whole(value):
    """Dtype, shape and values of every leaf."""
    if isinstance(value, dict):
        return {key: whole(leaf) for key, leaf in value.items()}
    return [str(value.dtype), list(value.shape), value.tolist()]


if __name__ == "__main__":
    main()
