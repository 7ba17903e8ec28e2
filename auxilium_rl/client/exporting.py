"""A policy's version as files that others read without us."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from auxilium_rl.client.errors import ClientError
from auxilium_rl.client.policy import Policy
from auxilium_rl.inference.loading import checked_policy
from auxilium_rl.inference.refused import Unfit
from auxilium_rl.inference.tensors import tensors_of

__all__ = ["FORMATS", "export"]

FORMATS = ("onnx", "sb3", "safetensors", "torchscript")


def export(policy: Policy, form: str, out: str | Path) -> list[str]:
    """Write a version to ``out``; gives lines of a report.

    Whatever the format, the version must do what Stable-Baselines3's ``predict`` did when it was saved, on the samples
    that were saved with it.

    Args:
        form: ``onnx`` (the graph, and its description beside it as ``.json``), ``sb3`` (Stable-Baselines3's own zip),
            ``safetensors`` (the graph's weights, the description in the metadata) or ``torchscript`` (a module for
            ``torch.jit.load``, the description in its extra file ``policy.json``).

    Raises:
        ClientError: it does not act as it was trained to, or cannot be written so; nothing was written.
        NotFound.
    """
    if form not in FORMATS:
        raise ClientError(f"format: '{form}' given; {', '.join(FORMATS)} are accepted")
    target = Path(out)
    version = policy.version()
    pinned = Policy(policy.client, f"{version.name}@{version.version}")
    files = {name: pinned.read(name) for name in ("policy.onnx", "policy.json", "parity.npz") if name in version.files}
    try:
        checked_policy(files.__getitem__, files, pinned.name, 4096)
    except Unfit as unfit:
        raise ClientError(str(unfit)) from unfit
    report = [f"{pinned.name}: does what Stable-Baselines3's predict did on every saved sample"]
    if form == "sb3":
        pinned.download(target, "model.zip")
    elif form == "onnx":
        pinned.download(target)
        description = target.with_suffix(".json")
        description.write_bytes(files["policy.json"])
        report.append(f"wrote {description}")
    elif form == "torchscript":
        report.append(f"as TorchScript too, on {_write_script(files, target)} samples")
    else:
        report.append(f"{_write_tensors(files['policy.onnx'], files['policy.json'], target)} tensors")
    return [*report, f"wrote {target}"]


def _write_script(files: Mapping[str, bytes], target: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        # A process of its own: this one need not have torch in it.
        command = [sys.executable, "-m", "auxilium_rl.core.torchscript", folder, str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClientError(f"it cannot be written as TorchScript: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout.split()[-1])


def _write_tensors(graph: bytes, description: bytes, target: Path) -> int:
    from safetensors.numpy import load

    data = tensors_of(graph, {"policy": json.dumps(json.loads(description))})
    target.write_bytes(data)
    return len(load(data))
