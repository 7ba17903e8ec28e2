"""Policies over real servers: versions, names, acting, following, taking away, evaluation, and what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import psutil
import pytest
import safetensors.numpy
from stable_baselines3 import PPO

from auxilium_rl.client import ActError, ClientError, InvalidArgument, NotFound, Run
from auxilium_rl.wire.payloads import unpack_payload
from generated.auxilium.v1 import policies_pb2 as pb
from tests.e2e.harness import Server, running, simulator, until

OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (200, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def cart(server: Server) -> Run:
    """A finished run that published four versions of the policy ``cart``."""
    run = server.client.train(
        "ppo",
        env="gym:CartPole-v1",
        total_timesteps=3 * 1024,
        seed=1,
        hyperparameters={"n_steps": 1024, "learning_rate": 1e-3},
        policy_name="cart",
        publish_checkpoints=True,
        checkpoint_freq=1024,
    )
    assert run.wait(timeout=90).state == "SUCCEEDED"
    return run


def act(server: Server, **fields: Any) -> pb.ActResponse:
    return server.client.policies_stub.Act(pb.ActRequest(**fields), timeout=10)


def rows(observations: Any) -> pb.Rows:
    return pb.Rows(slabs=[np.ascontiguousarray(observations, np.float32).tobytes()])


def refusal(call: Any, *arguments: Any, **fields: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **fields)
    return caught.value.code(), caught.value.details()


# -- versions and names


def test_versions_of_a_run(server: Server, cart: Run) -> None:
    info = server.client.policy("cart").info()
    assert [(version.version, version.timesteps) for version in info.versions] == [
        (0, 0),
        (1, 1024),
        (2, 2048),
        (3, 3072),
    ]
    assert info.aliases == {"latest": 3}
    assert {version.run_id for version in info.versions} == {cart.run_id}
    assert info.versions[-1].metrics["rollout/ep_rew_mean"] > 10
    assert len({version.contract_hash for version in info.versions}) == 1
    assert len({version.sha256 for version in info.versions}) == 4
    status = cart.status()
    assert server.client.policy("cart").read("model.zip") == Path(status.checkpoints[-1].path).read_bytes()


def test_a_run_without_a_name_publishes_under_its_id(server: Server) -> None:
    run = server.client.train("a2c", env="gym:CartPole-v1", total_timesteps=64, seed=0)
    run.wait(timeout=60)
    info = server.client.policy(run.run_id).info()
    assert [version.version for version in info.versions] == [0, 1]
    assert [version.timesteps for version in info.versions] == [0, run.status().timesteps_done]
    assert server.act(run.run_id, [0, 0, 0, 0]).success
    assert server.act(f"{run.run_id}@0", [0, 0, 0, 0]).success
    run.delete()
    with pytest.raises(NotFound):
        server.client.policy(run.run_id).info()


def test_every_name_acts(server: Server, cart: Run) -> None:
    policy = server.client.policy("cart")
    policy.set_alias("prod", 1)
    model = PPO.load(cart.status().checkpoints[-1].path, device="cpu")  # a file of our own making
    expected, _ = model.predict(OBSERVATIONS, deterministic=True)
    for name in ("cart", "cart@3", "cart@latest", cart.run_id):
        if name != cart.run_id:
            assert (np.array(server.client.policy(name).act_many(OBSERVATIONS)) == expected).all()
        assert [server.act(name, row.tolist()).action for row in OBSERVATIONS[:20]] == expected[:20].tolist()
    versions = {
        act(server, policy=name, observations=rows(OBSERVATIONS[:1])).version for name in ("cart@prod", "cart@1")
    }
    assert versions == {1}
    assert act(server, policy=cart.run_id, observations=rows(OBSERVATIONS[:1])).version == -1
    policy.set_alias("prod", 2)
    assert act(server, policy="cart@prod", observations=rows(OBSERVATIONS[:1])).version == 2


def test_any_checkpoint_becomes_a_version(server: Server, cart: Run) -> None:
    made = server.client.publish(cart.run_id, name="other", timesteps=2048)
    assert (made.name, made.version, made.timesteps) == ("other", 1, 2048)
    assert server.client.publish(cart.run_id, name="other", timesteps=2048).version == 1  # the same, not another
    assert server.client.publish(cart.run_id, name="other").version == 2
    with pytest.raises(ClientError, match=r"has not a checkpoint of 5 timesteps; it has those of"):
        server.client.publish(cart.run_id, name="other", timesteps=5)
    with pytest.raises(InvalidArgument, match="policy_name"):
        server.client.publish(cart.run_id, name="a/b")
    with pytest.raises(InvalidArgument, match="another run's id"):
        server.client.publish(cart.run_id, name="0" * 32)
    with pytest.raises(NotFound):
        server.client.publish("0" * 32)
    policy = server.client.policy("other")
    with pytest.raises(ClientError, match="latest"):
        policy.delete_version(2)
    assert [version.version for version in policy.delete_version(1).versions] == [2]
    assert not server.act("other@1", [0, 0, 0, 0]).success
    assert policy.delete() > 0
    with pytest.raises(NotFound):
        policy.info()


def test_tags_notes_and_lists(server: Server, cart: Run) -> None:
    changed = server.client.policy("cart").update(set_tags={"team": "x"}, notes="ours")
    assert (changed.tags, changed.notes) == ({"team": "x"}, "ours")
    assert [info.name for info in server.client.policies(tags={"team": "x"})] == ["cart"]
    assert "cart" in [info.name for info in server.client.policies(page_size=1)]
    with pytest.raises(InvalidArgument, match="tags"):
        server.client.policy("cart").update(set_tags={"": "x"})
    with pytest.raises(InvalidArgument, match="page_size"):
        list(server.client.policies(page_size=5000))


def test_other_spaces_need_another_name(server: Server, cart: Run) -> None:
    run = server.client.train("ppo", env="gym:Acrobot-v1", total_timesteps=64, policy_name="cart")
    status = run.wait(timeout=60, raise_on_failure=False)
    assert status.state == "FAILED"
    assert "policy_name: 'cart' given, whose versions have the contract" in status.error_message
    assert status.timesteps_done <= 1


def test_another_run_goes_on_with_the_numbers(server: Server, cart: Run) -> None:
    before = len(server.client.policy("cart").info().versions)
    run = server.client.train("a2c", env="gym:CartPole-v1", total_timesteps=64, policy_name="cart")
    run.wait(timeout=60)
    info = server.client.policy("cart").info()
    assert len(info.versions) == before + 1  # not its untrained weights
    assert info.versions[-1].algorithm == "a2c"
    server.client.policy("cart").set_alias("mine", before - 1)
    assert info.aliases["latest"] == before


def test_wrong_names(server: Server, cart: Run) -> None:
    known = "it has the versions 0, 1"
    for name, code, why in (
        ("nobody", grpc.StatusCode.NOT_FOUND, "'nobody'"),
        ("nobody@1", grpc.StatusCode.NOT_FOUND, "there is no policy 'nobody'"),
        ("cart@99", grpc.StatusCode.NOT_FOUND, known),
        ("cart@nothing", grpc.StatusCode.NOT_FOUND, known),
        ("../cart", grpc.StatusCode.NOT_FOUND, "'../cart'"),
    ):
        found = refusal(act, server, policy=name, observations=rows(OBSERVATIONS[:1]))
        assert found[0] is code
        assert why in found[1]
    stub = server.client.policies_stub
    for alias in ("latest", "5", "a@b", ""):
        assert refusal(stub.SetAlias, pb.SetAliasRequest(name="cart", alias=alias, version=1))[0] is (
            grpc.StatusCode.INVALID_ARGUMENT
        )
    assert refusal(stub.GetPolicy, pb.GetPolicyRequest(name="a b"))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(stub.GetVersion, pb.GetVersionRequest(policy="a b"))[0] is grpc.StatusCode.INVALID_ARGUMENT
    for name in ("a/b", "0" * 32, "x" * 200):
        with pytest.raises(InvalidArgument, match="policy_name"):
            server.client.train("ppo", env="gym:CartPole-v1", total_timesteps=64, policy_name=name)


# -- acting


def test_batches_samples_and_what_goes_with_them(server: Server, cart: Run) -> None:
    answer = act(
        server,
        policy="cart@3",
        count=200,
        observations=rows(OBSERVATIONS),
        with_values=True,
        with_log_probs=True,
        with_probabilities=True,
        deterministic=False,
        seed=5,
    )
    actions = np.frombuffer(answer.actions.slabs[0], "<i8")
    chances = np.array(answer.probabilities).reshape(200, 2)
    assert len(answer.values) == 200
    np.testing.assert_allclose(np.exp(answer.log_probs), chances[np.arange(200), actions], atol=1e-5)
    assert 0 < actions.sum() < 200


def test_bad_observations_and_masks(server: Server, cart: Run) -> None:
    one = rows(OBSERVATIONS[:1])
    hashed = server.client.policy("cart").version().contract_hash
    for fields, why in (
        ({"observations": rows(OBSERVATIONS[:1, :3])}, "observations: the only leaf: 12 bytes came; 16 were expected"),
        ({"observations": pb.Rows()}, "0 slabs came"),
        ({"observations": rows([[np.nan, 0, 0, 0]])}, "every value must be finite"),
        ({"count": -3, "observations": one}, "count: -3 given"),
        ({"count": 4097, "observations": one}, "count: 4097 given; 1 to 4096 (ACT_MAX_BATCH) is accepted"),
        ({"observations": one, "action_masks": b"\0\0"}, "forbid every action"),
        ({"observations": one, "action_masks": b"\1"}, "none or 1 x 2 are accepted"),
        ({"observations": one, "states": [b"x"]}, "this policy remembers nothing"),
        ({"observations": one, "contract_hash": "0" * 64}, f"'{'0' * 64}' given; the policy's is '{hashed}'"),
    ):
        code, details = refusal(act, server, policy="cart", **fields)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert why in details
    with pytest.raises(ActError, match="shape"):
        server.client.policy("cart").act([1.0, 2.0])


def test_a_stream_with_many_in_flight(server: Server, cart: Run) -> None:
    expected = np.array(server.client.policy("cart@3").act_many(OBSERVATIONS))

    def requests() -> Iterator[pb.ActRequest]:
        for number, row in enumerate(OBSERVATIONS):
            name = "cart@3" if number == 0 else ""
            yield pb.ActRequest(policy=name, observations=rows(row), id=number)
        yield pb.ActRequest(observations=rows([1.0]), id=1000)
        yield pb.ActRequest(policy="nobody@1", observations=rows(OBSERVATIONS[0]), id=1001)
        yield pb.ActRequest(policy="cart@3", observations=rows(OBSERVATIONS[0]), id=1002)

    answers = list(server.client.policies_stub.ActStream(requests(), timeout=30))
    assert [answer.id for answer in answers] == [*range(200), 1000, 1001, 1002]
    got = [np.frombuffer(answer.actions.slabs[0], "<i8")[0] for answer in answers[:200]]
    assert got == expected.tolist()
    assert answers[200].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "4 bytes came" in answers[200].error.message
    assert answers[201].error.reason == "POLICY_NOT_FOUND"
    assert not answers[202].HasField("error")


def test_policies_that_remember(server: Server) -> None:
    run = server.client.train(
        "recurrent_ppo",
        env="gym:CartPole-v1",
        total_timesteps=64,
        hyperparameters={"n_steps": 64, "batch_size": 32, "policy_kwargs": {"lstm_hidden_size": 8}},
        policy_name="recurrent",
    )
    run.wait(timeout=60)
    policy = server.client.policy("recurrent")
    code, details = refusal(act, server, policy="recurrent", observations=rows(OBSERVATIONS[:1]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "states: none given; this policy remembers" in details
    remote, frozen = policy.episode(), run.episode()
    with policy.local() as local:
        here = local.episode()
        for row in OBSERVATIONS[:20]:
            assert remote.act(row) == frozen.act(row) == here.act(row)


# -- taking away


def test_download_goes_on_where_it_was(server: Server, cart: Run) -> None:
    stub = server.client.policies_stub
    whole = server.client.policy("cart@3").read("model.zip")
    first = next(iter(stub.DownloadPolicy(pb.DownloadPolicyRequest(policy="cart@3", file="model.zip"))))
    assert first.size == len(whole)
    request = pb.DownloadPolicyRequest(policy="cart@3", file="model.zip", offset=len(first.data), sha256=first.sha256)
    rest = b"".join(chunk.data for chunk in stub.DownloadPolicy(request))
    assert first.data + rest == whole
    request.policy = "cart@1"
    code, details = refusal(list, stub.DownloadPolicy(request))
    assert code is grpc.StatusCode.ABORTED
    assert "cart@1" in details
    for fields, why in (
        ({"offset": -1}, "offset: -1 given"),
        ({"offset": 10**9}, "offset: 1000000000 given"),
        ({"file": "../../auxilium.db"}, "cart@3 has critic.onnx, model.zip"),
    ):
        request = pb.DownloadPolicyRequest(policy="cart@3", **fields)
        code, details = refusal(list, stub.DownloadPolicy(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert why in details


def test_followers_get_the_first_version_and_then_the_newest(server: Server, cart: Run) -> None:
    """Elsewhere the first update was empty and called current, and every difference was empty."""
    policy = server.client.policy("cart")
    policy.set_alias("now", 1)
    call = server.client.policies_stub.WatchPolicy(pb.WatchPolicyRequest(policy="cart@now", with_payload=True))
    updates = iter(call)
    first = next(updates)
    graph = unpack_payload(first.graph)
    assert graph == server.client.policy("cart@1").read()
    assert hashlib.sha256(graph).hexdigest() == first.version.sha256
    assert json.loads(first.description)["algorithm"] == "ppo"
    for version in (2, 3, 0, 2, 3):  # a slow follower, who looks only after all of that
        policy.set_alias("now", version)
    seen = []
    while not seen or seen[-1].version.version != 3:
        seen.append(next(updates))
        graph = unpack_payload(seen[-1].graph, graph)
    assert graph == server.client.policy("cart@3").read()
    call.cancel()
    assert len(seen) <= 3
    assert seen[-1].graph.encoding == pb.Payload.ENCODING_XOR_ZSTD
    assert 0 < len(seen[-1].graph.data) < len(first.graph.data)


def test_followers_get_the_weights_alone(server: Server, cart: Run) -> None:
    policy, stub = server.client.policy("cart"), server.client.policies_stub
    policy.set_alias("light", 1)
    form = pb.WatchPolicyRequest.FORMAT_SAFETENSORS
    held, weights = "", b""
    for version in (1, 2):
        policy.set_alias("light", version)
        asked = pb.WatchPolicyRequest(policy="cart@light", with_payload=True, format=form, have_sha256=held)
        call = stub.WatchPolicy(asked)
        update = next(iter(call))
        call.cancel()
        held, weights = update.version.sha256, unpack_payload(update.graph, weights)
        graph = onnx.load_from_string(server.client.policy(f"cart@{version}").read())
        expected = {one.name: onnx.numpy_helper.to_array(one) for one in graph.graph.initializer}
        found = safetensors.numpy.load(weights)
        assert found.keys() == expected.keys()
        assert all((found[name] == expected[name]).all() for name in found)
    assert update.graph.encoding == pb.Payload.ENCODING_XOR_ZSTD
    code, details = refusal(list, stub.WatchPolicy(pb.WatchPolicyRequest(policy="cart", format=7)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "format: 7 given; FORMAT_UNSPECIFIED, FORMAT_SAFETENSORS are accepted" in details


def test_what_is_followed_cannot_be_deleted(server: Server, cart: Run) -> None:
    server.client.publish(cart.run_id, name="held", timesteps=1024)
    server.client.publish(cart.run_id, name="held", timesteps=2048)
    policy = server.client.policy("held")
    call = server.client.policies_stub.WatchPolicy(pb.WatchPolicyRequest(policy="held@1"))
    next(iter(call))
    with pytest.raises(ClientError, match="held@1 is held by 1 who follow it"):
        policy.delete_version(1)
    with pytest.raises(ClientError, match="held by 1"):
        policy.delete()
    call.cancel()
    until(lambda: _deleted(policy), "the follower's leaving")


def _deleted(policy: Any) -> bool:
    try:
        return bool(policy.delete())
    except ClientError:
        return False


def test_a_policy_in_the_callers_process(server: Server, cart: Run) -> None:
    policy = server.client.policy("cart")
    policy.set_alias("live", 1)
    with server.client.policy("cart@live").local() as local:
        assert local.version.version == 1
        assert local.act_many(OBSERVATIONS) == server.client.policy("cart@1").act_many(OBSERVATIONS)
        policy.set_alias("live", 3)
        assert local.wait_for(3, timeout=10)
        assert local.act_many(OBSERVATIONS) == server.client.policy("cart@3").act_many(OBSERVATIONS)
        with pytest.raises(ActError, match="finite"):
            local.act([np.nan, 0, 0, 0])
    with pytest.raises(ClientError, match="nobody"):
        server.client.policy("nobody").local(timeout=10)


# -- evaluation


def test_evaluation(server: Server, cart: Run) -> None:
    policy = server.client.policy("cart@3")
    told: list[Any] = []
    found = policy.evaluate(6, seed=3, on_episode=told.append)
    assert [episode.total for episode in told] == [episode.total for episode in found.episodes]
    assert len(told) == 6
    assert found.mean_return == pytest.approx(np.mean([episode.total for episode in told]))
    again = policy.evaluate(6, seed=3)
    assert [episode.total for episode in again.episodes] == [episode.total for episode in told]
    model = PPO.load(cart.status().checkpoints[-1].path, device="cpu")
    assert told[0].total == _played(model, 3)
    worse = server.client.policy("cart@0").evaluate(6, seed=3)
    assert worse.mean_return < found.mean_return
    assert policy.info().aliases["best"] == 3
    assert server.client.policy("cart@best").version().version == 3
    assert [one.mean_return for one in policy.version().evaluations] == [found.mean_return, again.mean_return]
    policy.update(criterion="-mean_return")
    assert policy.info().aliases["best"] == 0
    policy.update(criterion="mean_return")


def _played(model: Any, seed: int) -> float:
    import gymnasium

    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(int(model.predict(observation, deterministic=True)[0]))
        total, ended = total + float(reward), terminated or truncated
    return total


def test_evaluation_on_a_remote_simulator_closes_its_gyms(server: Server, cart: Run) -> None:
    with simulator("a", "b") as (served, address):
        found = server.client.policy("cart@3").evaluate(4, env=f"grpc://{address}", gym_ids=("a", "b"), seed=0)
        assert len(found.episodes) == 4
        assert found.environment == f"grpc://{address}"
        until(lambda: served.closes == {"a": 1, "b": 1}, "both Closes")


def test_bad_evaluations(server: Server, cart: Run) -> None:
    policy = server.client.policy("cart@3")
    for fields, why in (
        ({"episodes": -1}, "episodes: -1 given"),
        ({"seed": -5}, "seed: -5 given"),
        ({"max_steps": -1}, "max_steps: -1 given"),
        ({"env": "gym:Acrobot-v1"}, "contract"),
        ({"env": "gym:Nothing-v9"}, "environment"),
        ({"env": "attached:x"}, "simulators dial in for training only"),
    ):
        with pytest.raises(InvalidArgument, match=why):
            policy.evaluate(**fields)
    with pytest.raises(NotFound):
        server.client.policy("cart@77").evaluate()
    before = len(policy.version().evaluations)
    call = server.client.policies_stub.Evaluate(pb.EvaluateRequest(policy="cart@3", episodes=100_000))
    next(iter(call))
    call.cancel()  # whoever goes ends it, and nothing is kept
    until(lambda: not _evaluating(server), "the end of its process")
    assert len(policy.version().evaluations) == before


@pytest.mark.long
def test_an_evaluation_whose_simulator_is_not_there(server: Server, cart: Run) -> None:
    with pytest.raises(ClientError, match=r"127\.0\.0\.1:1"):
        server.client.policy("cart@3").evaluate(2, env="grpc://127.0.0.1:1", gym_ids=("a",))


def _evaluating(server: Server) -> bool:
    for child in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it is ending
            if "auxilium_rl.infra.evaluation_worker" in child.cmdline():
                return True
    return False


# -- what dies


def test_a_server_that_dies_in_the_middle(tmp_path: Path) -> None:
    """Downloads go on, followers come back, aliases are old or new, versions stay."""
    with running(tmp_path / "data", default_env="gym:CartPole-v1") as server:
        run = server.client.train(
            "ppo",
            env="gym:CartPole-v1",
            total_timesteps=512,
            hyperparameters={"n_steps": 256},
            policy_name="cart",
            publish_checkpoints=True,
            checkpoint_freq=256,
        )
        run.wait(timeout=60)
        port, whole = server.port, server.client.policy("cart").read("model.zip")
        local = server.client.policy("cart").local()
        stub = server.client.policies_stub
        begun = next(iter(stub.DownloadPolicy(pb.DownloadPolicyRequest(policy="cart@2", file="model.zip"))))
        moving, moved = threading.Event(), [1]

        def move() -> None:
            while not moving.is_set():
                moved.append(3 - moved[-1])
                try:
                    stub.SetAlias(pb.SetAliasRequest(name="cart", alias="prod", version=moved[-1]), timeout=5)
                except grpc.RpcError:
                    return

        mover = threading.Thread(target=move)
        mover.start()
        until(lambda: len(moved) > 5, "aliases that move")
        answers = asked_without_end(stub)
        server.process.kill()
        server.process.wait()
        moving.set()
        told = []
        with pytest.raises(grpc.RpcError) as ended:
            told.extend(answer.id for answer in answers)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert told == list(range(1, len(told) + 1))  # in order up to some request; the others are asked again
        assert local.act(OBSERVATIONS[0]) in {0, 1}
        mover.join()
        with running(tmp_path / "data", port=port, default_env="gym:CartPole-v1") as back:
            client = back.client
            assert client.policy("cart").info().aliases["prod"] in moved[-2:]
            request = pb.DownloadPolicyRequest(
                policy="cart@2", file="model.zip", offset=len(begun.data), sha256=begun.sha256
            )
            assert next(asked_without_end(client.policies_stub)).id == 1
            rest = b"".join(chunk.data for chunk in client.policies_stub.DownloadPolicy(request))
            assert begun.data + rest == whole
            client.publish(run.run_id, name="cart", timesteps=256)
            made = client.publish(run.run_id, name="another")
            assert made.version == 1
            client.policy("cart").set_alias("prod", 1)
            again = client.train("a2c", env="gym:CartPole-v1", total_timesteps=64, policy_name="cart")
            again.wait(timeout=60)
            assert local.wait_for(3, timeout=20)  # it found back by itself
            local.close()


def asked_without_end(stub: Any) -> Iterator[Any]:
    """The answers of a stream after its first one; it has requests as long as it lives."""

    def requests() -> Iterator[pb.ActRequest]:
        for number in itertools.count():
            yield pb.ActRequest(policy="" if number else "cart@2", observations=rows(OBSERVATIONS[0]), id=number)

    answers = iter(stub.ActStream(requests()))
    assert next(answers).id == 0
    return answers


def test_damaged_files_are_refused_and_the_old_version_serves(tmp_path: Path) -> None:
    with running(tmp_path / "data", default_env="gym:CartPole-v1") as server:
        run = server.client.train(
            "ppo",
            env="gym:CartPole-v1",
            total_timesteps=512,
            hyperparameters={"n_steps": 256},
            policy_name="cart",
            publish_checkpoints=True,
            checkpoint_freq=256,
        )
        run.wait(timeout=60)
        policy = server.client.policy("cart")
        policy.set_alias("prod", 1)
        with server.client.policy("cart@prod").local() as local:
            assert server.act("cart@prod", [0, 0, 0, 0]).success
            folders = {
                json.loads((path / "manifest.json").read_text())["timesteps"]: path
                for path in (tmp_path / "data" / "policies" / "cart").iterdir()
            }
            graph = folders[512] / "policy.onnx"
            data = bytearray(graph.read_bytes())
            data[len(data) // 2] ^= 1
            graph.write_bytes(data)
            (folders[0] / "policy.onnx").write_bytes(b"short")
            for name in ("cart@2", "cart@0"):
                code, details = refusal(act, server, policy=name, observations=rows(OBSERVATIONS[:1]))
                assert code is grpc.StatusCode.DATA_LOSS
                assert "is not what was recorded" in details
            policy.set_alias("prod", 2)
            answer = server.act("cart@prod", [0, 0, 0, 0])
            assert "is not what was recorded" in answer.error_message
            until(lambda: local.fault is not None, "a look at the damaged one")
            assert "is not what was recorded" in str(local.fault)
            assert local.version.version == 1
            assert local.act(OBSERVATIONS[0]) in {0, 1}
            policy.set_alias("prod", 1)
            assert server.act("cart@prod", [0, 0, 0, 0]).success
