from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import gymnasium
import numpy as np
import pytest

from auxilium_rl.simulator.server import EnvironmentServer, serve_env
from auxilium_rl.wire.spaces import UnsupportedSpace
from generated import simulation_pb2 as pb
from generated import simulation_pb2_grpc
from generated.simulation.v2 import simulation_pb2_grpc as simulation_v2
from generated.simulation.v2.simulation_pb2 import Hello

BOX = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)


class Small(gymnasium.Env[Any, Any]):
    """Ends after three steps; its observation is the last action, and whether two threads were inside at once."""

    observation_space = BOX
    action_space = gymnasium.spaces.Discrete(3, start=5)

    def __init__(self, inside: Callable[[], None] = lambda: None) -> None:
        self.inside, self.busy, self.clash, self.count, self.closed = inside, False, False, 0, False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.count = 0
        return np.zeros(2, np.float32), {"seed": seed, "lives": 3}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clash, self.busy = self.clash or self.busy, True
        self.inside()
        self.busy = False
        self.count += 1
        return np.array([action, self.clash], np.float32), 0.5, False, self.count == 3, {"count": self.count}

    def close(self) -> None:
        self.closed = True


@contextmanager
def served(env: Any = "CartPole-v1", *gym_ids: str) -> Iterator[tuple[EnvironmentServer, Any]]:
    server = EnvironmentServer(env, gym_ids or ("lane-0",), port=0)
    with grpc.insecure_channel(f"127.0.0.1:{server.start()}") as channel:
        try:
            yield server, simulation_pb2_grpc.SimulationServiceStub(channel)
        finally:
            server.stop()


def reset(stub: Any, seed: int = 0, gym_id: str = "lane-0") -> Any:
    return stub.Reset(pb.ResetRequest(gym_id=gym_id, seed=seed), timeout=10)


def step(stub: Any, action: int = 0, gym_id: str = "lane-0") -> Any:
    return stub.Step(pb.StepRequest(gym_id=gym_id, action=action), timeout=10)


def close(stub: Any, gym_id: str = "lane-0") -> Any:
    return stub.Close(pb.CloseRequest(gym_id=gym_id), timeout=10)


@contextmanager
def refused(code: grpc.StatusCode, text: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as raised:
        yield
    assert raised.value.code() == code
    assert text in raised.value.details()


def episode(
    begin: Callable[[], list[float]], act: Callable[[int], tuple[list[float], float, bool, bool]], actions: Any
) -> list[Any]:
    """Everything that is seen until the episode's end."""
    seen: list[Any] = [begin()]
    done = False
    while not done:
        seen.append(act(int(actions.integers(2))))
        done = seen[-1][2] or seen[-1][3]
    return seen


@pytest.mark.parametrize("first_seed", [0, 7])
def test_trajectories_equal_gymnasium(first_seed: int) -> None:
    env = gymnasium.make("CartPole-v1")
    seeds: list[tuple[int, int | None]] = [(first_seed, first_seed), (0, None), (0, None), (11, 11), (0, None)]

    def bare_step(action: int) -> tuple[list[float], float, bool, bool]:
        observation, reward, terminated, truncated, _ = env.step(action)
        return observation.tolist(), float(reward), terminated, truncated

    with served() as (server, stub):

        def served_step(action: int) -> tuple[list[float], float, bool, bool]:
            answer = step(stub, action)
            assert not answer.info
            return list(answer.observation), answer.reward, answer.terminated, answer.truncated

        steps = 0
        ours_rng, theirs_rng = np.random.default_rng(1), np.random.default_rng(1)
        for sent, meant in seeds:
            theirs = episode(lambda meant=meant: env.reset(seed=meant)[0].tolist(), bare_step, theirs_rng)
            ours = episode(lambda sent=sent: list(reset(stub, sent).observation), served_step, ours_rng)
            assert ours == theirs
            steps += len(ours) - 1
        assert server.steps == {"lane-0": steps}
    env.close()


def test_after_close_a_gym_is_new() -> None:
    with served() as (_, stub):
        first = reset(stub, 0)
        assert reset(stub, 0).observation != first.observation
        close(stub)
        assert reset(stub, 0).observation == first.observation


def test_lanes_are_apart() -> None:
    with served("CartPole-v1", "a", "b") as (server, stub):
        assert server.gym_ids == ("a", "b")
        assert (server.observation_dim, server.action_dim) == (4, 2)
        assert reset(stub, 1, "a").observation != reset(stub, 2, "b").observation
        step(stub, 0, "b")
        close(stub, "b")
        assert (server.steps, server.closes) == ({"a": 0, "b": 1}, {"a": 0, "b": 1})
        step(stub, 0, "a")


def test_close_says_what_it_did() -> None:
    with served() as (server, stub):
        assert close(stub).message == "was not open"
        reset(stub)
        answers = [close(stub) for _ in range(2)]
        assert [(answer.success, answer.message) for answer in answers] == [(True, "closed"), (True, "already closed")]
        assert server.closes == {"lane-0": 3}


@pytest.mark.parametrize("call", [reset, step, close], ids=["reset", "step", "close"])
def test_an_unknown_gym_is_not_found(call: Callable[..., Any]) -> None:
    with (
        served("CartPole-v1", "a", "b") as (server, stub),
        refused(grpc.StatusCode.NOT_FOUND, "gym 'c' is not served here; these are: a; b"),
    ):
        call(stub, gym_id="c")
    assert server.closes == {"a": 0, "b": 0}


def test_a_step_needs_an_episode() -> None:
    with served(Small) as (server, stub):
        for prepare in (lambda: None, lambda: [reset(stub), *(step(stub) for _ in range(3))], lambda: close(stub)):
            prepare()
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "gym 'lane-0' needs a Reset before a Step"):
                step(stub)
        assert server.steps == {"lane-0": 3}


@pytest.mark.parametrize("action", [-1, 3])
def test_an_action_out_of_range_is_named(action: int) -> None:
    with served(Small) as (server, stub):
        reset(stub)
        with refused(grpc.StatusCode.INVALID_ARGUMENT, f"action {action} given; 0 to 2 are accepted"):
            step(stub, action)
        assert server.steps == {"lane-0": 0}
        assert list(step(stub, 2).observation) == [7.0, 0.0]  # the environment's actions begin at 5


def test_a_negative_seed_is_refused() -> None:
    with served() as (_, stub), refused(grpc.StatusCode.INVALID_ARGUMENT, "seed -1 given; 0 or more is accepted"):
        reset(stub, -1)


def test_info_goes_as_text() -> None:
    with served(Small) as (_, stub):
        assert dict(reset(stub, 0).info) == {"seed": "0", "lives": "3"}
        assert dict(reset(stub, 0).info) == {"seed": "None", "lives": "3"}
        assert dict(step(stub).info) == {"count": "1"}


def test_gyms_step_at_the_same_time() -> None:
    barrier = threading.Barrier(2)

    def meet() -> None:
        barrier.wait(5)

    with served(lambda: Small(meet), "a", "b") as (_, stub), futures.ThreadPoolExecutor(2) as pool:
        for gym_id in "ab":
            reset(stub, 0, gym_id)
        waiting = [pool.submit(step, stub, 0, gym_id) for gym_id in "ab"]
        assert [answer.result().reward for answer in waiting] == [0.5, 0.5]


def test_one_gym_steps_once_at_a_time() -> None:
    with served(lambda: Small(lambda: time.sleep(0.02))) as (_, stub), futures.ThreadPoolExecutor(3) as pool:
        reset(stub)
        answers = list(pool.map(lambda _: step(stub), range(3)))
    assert sorted(answer.info["count"] for answer in answers) == ["1", "2", "3"]
    assert all(answer.observation[1] == 0.0 for answer in answers)


def test_stop_waits_for_a_step_and_closes() -> None:
    entered, go = threading.Event(), threading.Event()
    made: list[Small] = []

    def inside() -> None:
        entered.set()
        go.wait(5)

    def make() -> Small:
        made.append(Small(inside))
        return made[-1]

    with served(make) as (server, stub), futures.ThreadPoolExecutor(2) as pool:
        reset(stub)
        stepping = pool.submit(step, stub)
        assert entered.wait(5)
        stopping = pool.submit(server.stop)
        assert not futures.wait([stopping], 0.1).done
        assert not made[-1].closed
        go.set()
        stopping.result(5)
        assert isinstance(stepping.exception(5), grpc.RpcError)
    assert made[-1].closed


def test_a_unix_socket_where_none_can_be_is_an_error_that_says_so() -> None:
    with pytest.raises(OSError, match=r"cannot listen on unix:///nowhere/a\.sock: its folder must be there"):
        serve_env("CartPole-v1", address="unix:///nowhere/a.sock")


def test_a_taken_port_is_an_error_that_says_so() -> None:
    first = EnvironmentServer("CartPole-v1", port=0)
    port = first.start()
    second = EnvironmentServer("CartPole-v1", port=port)
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: the port is taken"):
        second.start()
    second.stop()
    first.stop()


def test_wait_ends_with_stop() -> None:
    server = EnvironmentServer("CartPole-v1", port=0)
    server.start()
    waiter = threading.Thread(target=server.wait)
    waiter.start()
    server.stop()
    waiter.join(5)
    assert not waiter.is_alive()


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (gymnasium.spaces.Box(0, 255, (3,), np.uint8), gymnasium.spaces.Discrete(2)),
        (gymnasium.spaces.Box(0.0, 1.0, (2, 2), np.float32), gymnasium.spaces.Discrete(2)),
        (gymnasium.spaces.Discrete(4), gymnasium.spaces.Discrete(2)),
        (BOX, BOX),
        (BOX, gymnasium.spaces.MultiDiscrete([2, 2])),
    ],
)
def test_other_spaces_are_served_by_simulation_v2_alone(observation: Any, action: Any) -> None:
    class Other(Small):
        observation_space = observation
        action_space = action

    server = EnvironmentServer(Other, port=0)
    with grpc.insecure_channel(f"127.0.0.1:{server.start()}") as channel:
        contract = simulation_v2.EnvironmentServiceStub(channel).Describe(Hello(generation="sim-v2"))
        with pytest.raises(grpc.RpcError) as caught:
            simulation_pb2_grpc.SimulationServiceStub(channel).Reset(pb.ResetRequest(gym_id="lane-0"))
    server.stop()
    assert contract.lanes == 1
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_spaces_that_fit_no_protocol_are_refused() -> None:
    class Nested(Small):
        observation_space = gymnasium.spaces.Tuple((BOX, BOX))

    with pytest.raises(UnsupportedSpace, match="Box, Discrete, MultiDiscrete, MultiBinary and one level of Dict"):
        EnvironmentServer(Nested)


@pytest.mark.parametrize("gym_ids", [(), ("a", "a"), ("a", "")])
def test_gym_ids_are_unique_names(gym_ids: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="each must be unique and not empty"):
        EnvironmentServer("CartPole-v1", gym_ids)
