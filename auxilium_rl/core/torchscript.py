"""A policy's version as TorchScript: ``python -m auxilium_rl.core.torchscript FOLDER OUT``. Only workers import this.

The folder has the version's ``policy.onnx``, ``policy.json`` and ``parity.npz``. The policy is built anew as the
description says, its weights are those of the graph; nothing is unpickled.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from auxilium_rl.core.actor_graph import ActorGraph
from auxilium_rl.core.declared_lanes import DeclaredLanes
from auxilium_rl.core.dto import EnvironmentSource, RunSpec
from auxilium_rl.core.model_building import build_model
from auxilium_rl.inference.loading import differing
from auxilium_rl.wire.spaces import space_from_json
from auxilium_rl.wire.trees import unpack

__all__ = ["main", "scripted"]

_EXAMPLE_ROWS = 2


def scripted(description: dict[str, Any], graph: bytes) -> torch.jit.ScriptModule:
    """The actor of a version; takes and gives what its ONNX graph does, in the same order.

    Raises:
        ValueError: the graph is not of the policy that is described.
    """
    actor = ActorGraph(_model(description)).eval().requires_grad_(False)
    weights = {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load_from_string(graph).graph.initializer
    }
    unknown = actor.load_state_dict(weights, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"the graph has the weights {unknown}, which the policy that is described has not")
    example: tuple[torch.Tensor, ...] = (torch.zeros((_EXAMPLE_ROWS, actor.size)),)
    if actor.state_shape is not None:
        layers, size = actor.state_shape
        example += (torch.zeros((layers, _EXAMPLE_ROWS, size)), torch.zeros((layers, _EXAMPLE_ROWS, size)))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is old, and asked for
        return torch.jit.trace(actor, example)  # type: ignore[no-any-return,no-untyped-call]


def _model(description: dict[str, Any]) -> Any:
    native, rebuild = description["native"], description["rebuild"]
    lanes = DeclaredLanes(
        space_from_json(native["observation"], "native.observation"),
        space_from_json(native["action"], "native.action"),
        description["mask_len"],
    )
    hyperparameters = dict(rebuild["hyperparameters"])
    if "buffer_size" in hyperparameters:
        hyperparameters["buffer_size"] = 1  # nothing is learned here
    spec = RunSpec.from_json(
        {
            "experiment_id": "",
            "algorithm": description["algorithm"],
            "environment": asdict(EnvironmentSource("declared")),
            "total_timesteps": 1,
            "seed": 0,
            **rebuild,
            "hyperparameters": hyperparameters,
        }
    )
    return build_model(spec, lanes)[0]


def _check(module: torch.jit.ScriptModule, description: dict[str, Any], samples: bytes) -> int:
    """It must do what Stable-Baselines3's ``predict`` did; gives the number of samples. Raises ValueError."""
    kept = unpack(samples)
    rows, expected = torch.from_numpy(kept["observations"].astype(np.float32)), kept["actions"]
    inputs: tuple[torch.Tensor, ...] = (rows,)
    if "state" in description:
        layers, _, size = description["state"]["shape"]
        inputs += (torch.zeros((layers, len(rows), size)), torch.zeros((layers, len(rows), size)))
    with torch.no_grad():
        found, scores = (output.numpy() for output in module(*inputs)[:2])
    far = differing(found, scores, expected, continuous=description["action_space"]["type"] == "Box")
    if far.any():
        row = int(np.argwhere(far)[0][0])
        raise ValueError(f"for sample {row} it says {found[row]}, Stable-Baselines3 said {expected[row]}")
    return len(rows)


def main() -> int:
    """Write the file; gives the exit code."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    text = (folder / "policy.json").read_text(encoding="utf-8")
    description = json.loads(text)
    module = scripted(description, (folder / "policy.onnx").read_bytes())
    aside = folder / "policy.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(module, str(aside), _extra_files={"policy.json": text})
        loaded = torch.jit.load(str(aside))  # type: ignore[no-untyped-call]
    count = _check(loaded, description, (folder / "parity.npz").read_bytes())
    out.write_bytes(aside.read_bytes())
    sys.stdout.write(f"{count}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
