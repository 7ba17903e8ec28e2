"""``serve_env`` with vector environments, watchers, and devices."""

from __future__ import annotations

import queue
from typing import Any

import grpc
import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from auxilium_rl.remote import RemoteEnv, RemoteVectorEnv
from auxilium_rl.simulator import ActionClient, ActionServer, serve_env
from auxilium_rl.simulator.actions import DeviceError
from generated.simulation.v2 import simulation_pb2 as pb
from generated.simulation.v2 import simulation_pb2_grpc
from tests.e2e.test_truth import make_cartpole


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_a_vector_environment_is_served_as_it_is(mode: AutoresetMode) -> None:
    local = SyncVectorEnv([make_cartpole] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    served = serve_env(lambda: SyncVectorEnv([make_cartpole] * 3, autoreset_mode=mode), address="127.0.0.1:0")
    with served:
        remote = RemoteVectorEnv(served.address)
        assert remote.num_envs == 3
        np.testing.assert_array_equal(remote.reset(seed=5)[0], local.reset(seed=5)[0])
        local.action_space.seed(2)
        for _ in range(60):
            actions = local.action_space.sample()
            ours, theirs = remote.step(actions), local.step(actions)
            for one, other in zip(ours[:4], theirs[:4], strict=True):
                np.testing.assert_array_equal(one, other)
        remote.close()


def test_a_vector_environment_that_resets_a_step_late_is_refused() -> None:
    with pytest.raises(ValueError, match=r"NEXT_STEP; SAME_STEP and DISABLED are accepted"):
        serve_env(lambda: SyncVectorEnv([make_cartpole], autoreset_mode=AutoresetMode.NEXT_STEP), address="127.0.0.1:0")
    with pytest.raises(ValueError, match="host:port and unix:///path are accepted"):
        serve_env("CartPole-v1", address="somewhere")


# -- watching


def observe(address: str, **request: Any) -> tuple[grpc.Channel, Any]:
    channel = grpc.insecure_channel(address)
    return channel, simulation_pb2_grpc.EnvironmentServiceStub(channel).Observe(pb.ObserveRequest(**request))


def test_a_watcher_sees_what_happens_and_never_slows_it() -> None:
    with serve_env(make_cartpole, 1, "127.0.0.1:0") as served:
        channel, stream = observe(served.address)
        remote = RemoteEnv(served.address)
        first = _first_seen(remote, stream)
        assert np.isfinite(np.frombuffer(first.transition.obs[0], "<f4")).all()
        assert len(first.transition.reward) == 4
        for _ in range(500):  # nobody reads the stream meanwhile
            if any(remote.step(remote.action_space.sample())[2:4]):
                remote.reset()
        later = next(stream)
        assert later.seq > first.seq
        stream.cancel()
        channel.close()
        remote.close()


def _first_seen(remote: RemoteEnv, stream: Any) -> pb.Observed:
    """Steps until the watcher, whose stream begins when it begins, has seen one."""
    seen: queue.Queue[pb.Observed] = queue.Queue()
    import threading

    threading.Thread(target=lambda: seen.put(next(stream)), daemon=True).start()
    remote.reset(seed=0)
    while seen.empty():
        if any(remote.step(remote.action_space.sample())[2:4]):
            remote.reset()
    return seen.get()


class Painted(gymnasium.Env[Any, Any]):
    """Draws how often it was stepped."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    render_mode = "rgb_array"
    steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self) -> Any:
        return np.full((4, 4, 3), min(self.steps, 255), np.uint8)


def test_frames_are_drawn_for_those_who_want_them() -> None:
    import io

    from PIL import Image

    with serve_env(Painted, 1, "127.0.0.1:0") as served:
        channel, stream = observe(served.address, render=True, max_hz=1000)
        remote = RemoteEnv(served.address)
        seen = _first_seen(remote, stream)
        picture = np.asarray(Image.open(io.BytesIO(seen.transition.render_png)))
        assert picture.shape == (4, 4, 3)
        stream.cancel()
        channel.close()
        remote.close()


@pytest.mark.parametrize(
    ("request_fields", "code", "says"),
    [
        ({"lanes": [3]}, grpc.StatusCode.INVALID_ARGUMENT, "lanes: 3 given; 0 to 0 are accepted"),
        ({"max_hz": -1}, grpc.StatusCode.INVALID_ARGUMENT, "max_hz"),
        ({"keys": ["speed"]}, grpc.StatusCode.INVALID_ARGUMENT, "keys: 'speed' given"),
        ({"render": True}, grpc.StatusCode.FAILED_PRECONDITION, "without render_mode"),
    ],
)
def test_wrong_watchers(request_fields: dict[str, Any], code: grpc.StatusCode, says: str) -> None:
    with serve_env(make_cartpole, 1, "127.0.0.1:0") as served:
        channel, stream = observe(served.address, **request_fields)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        channel.close()
    error: Any = caught.value
    assert error.code() == code
    assert says in error.details()


# -- devices


def test_a_device() -> None:
    moved: list[Any] = []

    def act(key: str, payload: Any) -> dict[str, Any] | None:
        if key == "fail":
            raise RuntimeError("the arm is stuck")
        moved.append(payload)
        return {"reached": True, "at": np.array([1, 2], np.int16)}

    def read(keys: Any) -> dict[str, Any]:
        return {"camera": np.arange(12, dtype=np.uint8).reshape(2, 2, 3), "battery": 0.5, "raw": b"\x00\x01"}

    server = ActionServer(read, act, observation_keys=["camera", "battery", "raw"], action_keys=["move", "fail"])
    with ActionClient(f"127.0.0.1:{server.start()}") as client:
        assert client.keys() == (("camera", "battery", "raw"), ("move", "fail"))
        seen = client.obs()
        np.testing.assert_array_equal(seen["camera"], np.arange(12).reshape(2, 2, 3))
        assert (seen["battery"], seen["raw"]) == (0.5, b"\x00\x01")
        assert list(client.obs(["battery"])) == ["battery"]
        answer = client.act("move", {"joints": [1.0, 2.0], "speed": "slow"})
        assert answer["reached"] is True
        assert answer["at"].dtype == np.int16
        assert moved == [{"joints": [1.0, 2.0], "speed": "slow"}]
        with pytest.raises(DeviceError, match="key: 'jump' given; move, fail are accepted"):
            client.act("jump")
        with pytest.raises(DeviceError, match="keys: 'sonar' given; camera, battery, raw are accepted"):
            client.obs(["sonar"])
        with pytest.raises(DeviceError, match="the device raised RuntimeError: the arm is stuck"):
            client.act("fail")
        with pytest.raises(ValueError, match="numbers, text, lists, maps, bytes and arrays are accepted"):
            client.act("move", object())
        _watched(server, client)
    server.stop()


def _watched(server: ActionServer, client: ActionClient) -> None:
    seen: queue.Queue[Any] = queue.Queue()
    client.on_obs(seen.put, keys=["battery"])
    number = 0
    while seen.empty():  # the watcher begins when it begins
        number += 1
        server.publish_obs({"battery": number, "camera": np.zeros(3)})
    assert seen.get().keys() == {"battery"}
    with pytest.raises(ValueError, match="numbers and booleans are accepted"):
        server.publish_obs({"battery": np.array(["low"])})
