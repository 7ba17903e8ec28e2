"""A simulator in another place as a Gymnasium environment: the checkers of Gymnasium and SB3, and equality."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from auxilium_rl.core.errors import ContractViolation, EnvironmentLost, SimulatorError
from auxilium_rl.remote import RemoteEnv, RemoteVectorEnv
from auxilium_rl.simulator.server import EnvironmentServer
from tests.e2e.proxy import Proxy
from tests.e2e.test_truth import make_cartpole
from tests.e2e.toys import Lookup, MaskedGrid, Reach


@contextmanager
def serving(env: Callable[[], gymnasium.Env[Any, Any]], lanes: int = 1, **more: Any) -> Iterator[str]:
    served = EnvironmentServer(env, [f"lane-{n}" for n in range(lanes)], port=0, **more)
    try:
        yield f"127.0.0.1:{served.start()}"
    finally:
        served.stop()


@pytest.mark.parametrize("env", [make_cartpole, Lookup, Reach, MaskedGrid])
def test_the_checkers_pass(env: Any) -> None:
    with serving(env) as address:
        remote = RemoteEnv(address)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both advise on spaces that are none of ours
            check_env(remote, skip_render_check=True, skip_close_check=True)
            sb3_check_env(remote, warn=False)
        remote.close()


@pytest.mark.parametrize("env", [make_cartpole, Lookup, Reach])
@pytest.mark.parametrize("fast_lane", ["", "tcp://127.0.0.1:0"])
def test_it_is_the_environment_bit_for_bit(env: Any, fast_lane: str) -> None:
    local = env()
    with serving(env, fast_lane=fast_lane) as address:
        remote = RemoteEnv(address)
        assert remote.transport == ("fast lane" if fast_lane else "stream")
        local.action_space.seed(1)
        for seed in (0, None, None, 7):
            mine, theirs = remote.reset(seed=seed)[0], local.reset(seed=seed)[0]
            done = False
            while not done:
                np.testing.assert_equal(mine, theirs)
                action = local.action_space.sample()
                ours, original = remote.step(action), local.step(action)
                assert (ours[1], ours[2:4]) == (np.float32(original[1]), original[2:4])
                mine, theirs, done = ours[0], original[0], original[2] or original[3]
            np.testing.assert_equal(mine, theirs)
        remote.close()


def test_many_lanes_are_a_vector_env() -> None:
    local = SyncVectorEnv([make_cartpole] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    with serving(make_cartpole, 3) as address:
        remote = RemoteVectorEnv(address)
        np.testing.assert_array_equal(remote.reset(seed=5)[0], local.reset(seed=5)[0])
        local.action_space.seed(2)
        ended = 0
        for _ in range(100):
            actions = local.action_space.sample()
            ours, original = remote.step(actions), local.step(actions)
            for one, other in zip(ours[:4], original[:4], strict=True):
                np.testing.assert_array_equal(one, other)
            if "final_obs" in original[4]:
                ended += 1
                for one, other in zip(ours[4]["final_obs"], original[4]["final_obs"], strict=True):
                    np.testing.assert_equal(one, other)
        assert ended > 5
        remote.close()


def test_masks_come_along() -> None:
    with serving(MaskedGrid) as address:
        remote = RemoteEnv(address)
        remote.reset(seed=0)
        assert remote.get_wrapper_attr("action_masks")().tolist() == [True, True, False, False]
        remote.close()
    with serving(Reach) as address:
        remote = RemoteEnv(address)
        assert not hasattr(remote, "action_masks")
        remote.close()


def test_what_is_refused() -> None:
    with serving(make_cartpole, 2) as address:
        with pytest.raises(ContractViolation, match="has 2 lanes; RemoteVectorEnv takes m"):
            RemoteEnv(address)
    with pytest.raises(EnvironmentLost, match=r"no simulator could be reached at 127\.0\.0\.1:1 within"):
        RemoteEnv("127.0.0.1:1", connect_timeout=0.3)
    with serving(make_cartpole) as address:
        remote = RemoteEnv(address)
        with pytest.raises(SimulatorError, match="holds the lanes: it is connected"):
            RemoteEnv(address)
        with pytest.raises(SimulatorError, match="INVALID_ACTION: action of lane 0: 9 given; 0 to 1 are accepted"):
            _step(remote, 9)
        remote.step(1)  # and it goes on
        remote.close()


def _step(remote: RemoteEnv, action: int) -> None:
    remote.reset()
    remote.step(action)


class Slow(gymnasium.Env[Any, Any]):
    """A second for each step, and a counter of its own."""

    observation_space = gymnasium.spaces.Box(0, 1000, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        time.sleep(1.0)
        Slow.steps += 1
        return np.array([Slow.steps], np.float32), 0.0, False, False, {}


def test_slow_steps_are_never_taken_twice() -> None:
    """One second a step; a stutter of the connection; a cut in the middle: the counters agree."""
    Slow.steps = 0
    with serving(Slow) as address:
        proxy = Proxy(("127.0.0.1", int(address.rpartition(":")[2])))
        remote = RemoteEnv(proxy.address, step_timeout=0.6)  # asked twice before the answer comes
        remote.reset()
        assert remote.step(0)[0] == 1
        threading.Timer(0.5, proxy.cut).start()
        assert remote.step(0)[0] == 2
        assert remote.step(0)[0] == 3
        remote.close()
        proxy.close()
    assert Slow.steps == 3


class Hung(Slow):
    """A step that ends when the test does."""

    over = threading.Event()

    def step(self, action: Any) -> Any:
        Hung.over.wait()
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_nobody_waits_longer_than_asked_for() -> None:
    with serving(Hung) as address:
        remote = RemoteEnv(address, step_timeout=0.3, connect_timeout=0.3, wait=1.0)
        remote.reset()
        with pytest.raises(EnvironmentLost, match=r"no answer within 0\.3 s; given up after 1 s"):
            remote.step(0)
        Hung.over.set()
        remote.close()
