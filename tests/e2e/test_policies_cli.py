"""``auxilium policies`` as a user types it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from stable_baselines3 import PPO

from tests.e2e.harness import Server
from tests.e2e.test_cli import auxilium


@pytest.fixture(scope="module")
def cart(server: Server) -> str:
    """The id of a run that published ``cart``."""
    trained = auxilium(
        server, "train", "ppo", "--steps", "1024", "--env", "gym:CartPole-v1", "-p", "n_steps=512", "--seed", "1",
        "--policy-name", "cart", "--eval-freq", "512", "--eval-episodes", "3",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    found: str = re.findall(r"run ([0-9a-f]{32})", trained.stdout)[0]
    return found


def test_from_training_to_a_named_policy(server: Server, cart: str) -> None:
    listed = auxilium(server, "policies", "list")
    assert re.search(r"cart\s+3\s+.*latest=2.*ppo\s+1,024", listed.stdout)
    shown = auxilium(server, "policies", "show", "cart").stdout
    assert re.search(
        r"version 1 +512 timesteps of " + cart + r".*return \d+\.\d+ ± .*3 episodes on gym:CartPole-v1", shown
    )
    assert auxilium(server, "policies", "alias", "cart", "prod", "1").stdout.startswith("best=")
    assert "prod" in auxilium(server, "policies", "show", "cart@prod").stdout
    version = json.loads(auxilium(server, "policies", "show", "cart@prod", "--json").stdout)
    assert (version["version"], version["timesteps"]) == (1, 512)
    assert auxilium(server, "policies", "update", "cart", "--tag", "team=x", "--notes", "ours").returncode == 0
    assert "cart" in auxilium(server, "policies", "list", "--tag", "team=x").stdout
    assert "cart" not in auxilium(server, "policies", "list", "--tag", "team=y").stdout
    assert auxilium(server, "policies", "act", "cart@prod", "0.1", "0", "-0.5", "0").stdout in {"0\n", "1\n"}
    assert auxilium(server, "policies", "alias", "cart", "prod").stdout.count("=") == 2
    assert auxilium(server, "policies", "publish", cart, "--name", "copy").stdout == "copy@1\n"
    assert "bytes freed" in auxilium(server, "policies", "delete", "copy").stdout


def test_evaluate_and_compare(server: Server, cart: str) -> None:
    told = auxilium(server, "policies", "eval", "cart@2", "--episodes", "4", "--seed", "7")
    assert re.match(r"return \d+\.\d+ ± \d+\.\d+, length .*\(4 episodes on gym:CartPole-v1, seed 7\)", told.stdout)
    compared = auxilium(server, "policies", "compare", "cart@2", "cart@0", "--episodes", "6")
    assert re.search(r"difference -?\d+\.\d+, 95 % between -?\d+\.\d+ and -?\d+\.\d+: ", compared.stdout), compared


EXPORTED = {"onnx": "cart.onnx", "sb3": "cart.zip", "safetensors": "cart.safetensors", "torchscript": "cart.pt"}


def test_export(server: Server, cart: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (100, 4)).astype(np.float32)
    for form, name in EXPORTED.items():
        done = auxilium(server, "policies", "export", "cart@2", "--format", form, "--out", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        assert "cart@2: does what Stable-Baselines3's predict did on every saved sample" in done.stdout
    (actions,) = onnxruntime.InferenceSession(tmp_path / "cart.onnx").run(["action"], {"observation": rows})
    model = PPO.load(tmp_path / "cart.zip", device="cpu")  # a file of our own making
    expected, _ = model.predict(rows, deterministic=True)
    assert (actions == expected).all()
    extra = {"policy.json": ""}
    with pytest.deprecated_call():
        scripted = torch.jit.load(str(tmp_path / "cart.pt"), _extra_files=extra)
    assert (scripted(torch.from_numpy(rows))[0].numpy() == expected).all()
    assert json.loads(extra["policy.json"])["algorithm"] == "ppo"
    tensors = load_file(tmp_path / "cart.safetensors")
    weights = model.policy.action_net.weight.detach().numpy()
    assert any(tensor.shape == weights.shape and (tensor == weights).all() for tensor in tensors.values())
    assert json.loads((tmp_path / "cart.json").read_text())["algorithm"] == "ppo"


def test_refusals(server: Server, cart: str, tmp_path: Path) -> None:
    for arguments, code, why in (
        (("show", "nobody"), 4, "there is no policy 'nobody'"),
        (("show", "cart@99"), 4, "it has the versions"),
        (("alias", "cart", "latest", "1"), 2, "follows the newest version by itself"),
        (("alias", "cart", "x", "99"), 4, "it has the versions"),
        (("delete", "cart@best"), 2, "NAME@VERSION with a number"),
        (("delete", "cart@2"), 1, "move that first"),
        (("eval", "cart", "--episodes", "-1"), 2, "episodes: -1 given"),
        (("export", "cart", "--format", "pickle", "--out", "x"), 2, "onnx, sb3, safetensors, torchscript are accepted"),
        (("export", "cart", "--format", "onnx", "--out", str(tmp_path / "no" / "x")), 2, "there is no folder"),
        (("list", "--tag", "x"), 2, "key=value is accepted"),
        (("publish", "0" * 32), 4, "not found"),
    ):
        done = auxilium(server, "policies", *arguments)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert why in done.stderr, (arguments, done.stderr)


def test_import(server: Server, tmp_path: Path) -> None:
    import gymnasium

    foreign = PPO("MlpPolicy", gymnasium.make("CartPole-v1"), n_steps=64, policy_kwargs={"net_arch": [16]}, seed=0)
    foreign.learn(64)
    foreign.save(tmp_path / "foreign")
    operator = {"DATA_DIR": str(server.data)}
    common = ("policies", "import", str(tmp_path / "foreign.zip"), "--name", "foreign", "--env", "gym:CartPole-v1")
    kwargs = ("-p", 'policy_kwargs={"net_arch": [16]}')
    made = auxilium(server, *common, "--algorithm", "ppo", *kwargs, env=operator)
    assert made.stdout.startswith("foreign@1: 64 timesteps"), made.stderr
    rows = np.random.default_rng(0).uniform(-1, 1, (100, 4)).astype(np.float32)
    expected, _ = foreign.predict(rows, deterministic=True)
    assert server.client.policy("foreign").act_many(rows) == expected.tolist()
    assert server.client.policy("foreign").evaluate(2, env="gym:CartPole-v1", seed=0).mean_return > 0
    (tmp_path / "no.zip").write_bytes(b"nothing")
    for arguments, why in (
        ((*common, "--algorithm", "ppo"), "its tensors are not those of ppo with these hyperparameters"),
        ((*common[:2], str(tmp_path / "no.zip"), *common[3:], "--algorithm", "ppo"), "no zip that"),
        ((*common[:2], str(tmp_path / "gone.zip"), *common[3:], "--algorithm", "ppo"), "there is no such file"),
    ):
        done = auxilium(server, *arguments, env=operator)
        assert done.returncode == 2, (arguments, done.stderr)
        assert why in done.stderr, (arguments, done.stderr)
