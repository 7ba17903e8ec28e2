"""An actor and a learner that do not wait for each other, with agentlace's names: soft actor-critic and demonstrations.

    python examples/agents/actor_learner.py                      # both, in two processes
    python examples/agents/actor_learner.py learner --port 5555  # or each by itself, on a machine of its own
    python examples/agents/actor_learner.py actor --port 5555

The actor swings up a pendulum at the system's own pace, sends what it saw, and acts with the newest network that has
come; it computes in NumPy and needs no torch. The learner takes half of every batch from the actor's store and half
from that of the demonstrations, learns as fast as it can, and publishes its network every few steps. No server of
Auxilium takes part: the learner is this program's own.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from auxilium_rl.functions.trainer import DataStoreBase, QueuedDataStore, TrainerClient, TrainerConfig, TrainerServer

if TYPE_CHECKING:
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

ENVIRONMENT, REQUESTS = "Pendulum-v1", ["send-stats", "leave"]
SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "policy_kwargs": {"net_arch": [64, 64]}}
GRADIENT_STEPS, BATCH, BEGIN = 20, 256, 200
"""Gradient steps from one network to the next, transitions in a batch, transitions of the actor before the first."""
Weights = dict[str, np.ndarray]
Controller = Callable[[np.ndarray], np.ndarray]
"""From an observation to an action from -1 to 1."""


# -- what both know


def transitions(act: Controller, env: gymnasium.Env[Any, Any], take: Callable[[dict[str, Any]], None]) -> float:
    """Play an episode and hand over each transition; gives the return."""
    observation, _ = env.reset()
    total, over, high = 0.0, False, env.action_space.high  # type: ignore[attr-defined]
    while not over:
        action = act(observation)
        following, reward, terminated, truncated, _ = env.step(action * high)
        take(
            {
                "observations": observation,
                "actions": action,
                "next_observations": following,
                "rewards": float(reward),
                "dones": bool(terminated),
            }
        )
        observation, over, total = following, terminated or truncated, total + float(reward)
    return total


def by_hand(observation: np.ndarray) -> np.ndarray:
    """Who demonstrates: pump energy until it is near the top, then hold it there."""
    cosine, sine, speed = (float(value) for value in observation)
    angle, energy = math.atan2(sine, cosine), speed**2 / 6 + 5 * cosine
    if cosine > 0.9 and abs(speed) < 2.5:
        torque = -12 * angle - 3 * speed
    else:
        torque = 2 * math.copysign(1, speed) * (5.2 - energy)
    return np.clip(np.array([torque / 2], np.float32), -1, 1)


# -- the actor


class Actor:
    """Acts with the newest network. A thread of the client brings it."""

    def __init__(self, seed: int) -> None:
        self.received, self.gradient_steps = 0, -1
        self._weights: Weights = {}
        self._changed = threading.Condition()
        self._rng = np.random.default_rng(seed)

    def take(self, network: dict[str, Any]) -> None:
        """A network has come."""
        with self._changed:
            self._weights, self.gradient_steps = network["weights"], network["gradient_steps"]
            self.received += 1
            self._changed.notify_all()

    def await_network(self, gradient_steps: int) -> None:
        """Wait for a network of so many gradient steps. Raises SystemExit when none comes."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.gradient_steps >= gradient_steps, 120):
                raise SystemExit(f"no network of {gradient_steps} gradient steps came within two minutes")

    def best(self, observation: np.ndarray) -> np.ndarray:
        """The most likely action."""
        action: np.ndarray = np.tanh(self._heads(observation)[0])
        return action

    def explore(self, observation: np.ndarray) -> np.ndarray:
        """An action drawn from the policy."""
        mean, log_std = self._heads(observation)
        noise = self._rng.standard_normal(mean.shape, np.float32)
        action: np.ndarray = np.tanh(mean + np.exp(np.clip(log_std, -20, 2)) * noise)
        return action

    def _heads(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights, hidden = self._weights, observation  # one network to the end, whatever comes meanwhile
        for layer in ("latent_pi.0", "latent_pi.2"):
            hidden = np.maximum(weights[f"{layer}.weight"] @ hidden + weights[f"{layer}.bias"], 0)
        mean, log_std = (weights[f"{head}.weight"] @ hidden + weights[f"{head}.bias"] for head in ("mu", "log_std"))
        return mean, log_std


class Pace:
    """Keeps a rate; 0: as fast as it goes."""

    def __init__(self, rate: float) -> None:
        self._period, self._next = 1 / rate if rate else 0.0, time.monotonic()

    def keep(self) -> None:
        """Wait until it is time for the next step."""
        self._next = max(self._next + self._period, time.monotonic())
        time.sleep(max(self._next - time.monotonic(), 0))


def act(options: argparse.Namespace, ports: tuple[int, int]) -> None:
    """The actor's process: act, send, and be compared in the end with who demonstrated."""
    env, actor = gymnasium.make(ENVIRONMENT), Actor(options.seed)
    env.reset(seed=options.seed)
    store = QueuedDataStore(options.steps + 200)
    config = TrainerConfig(*ports, request_types=REQUESTS)
    client = TrainerClient("actor", options.host, config, store, wait_for_server=True)
    client.recv_network_callback(actor.take)
    actor.await_network(0)
    _explore(actor, env, client, store, options)
    stored = client.update() and client.request("send-stats", {})
    if not stored:
        raise SystemExit("the learner is not there any more")
    actor.await_network(stored["gradient_steps"] + 1)  # one that may have seen all of it
    print(f"sent {len(store):,} transitions, {stored['actor']:,} are stored; {actor.received:,} networks came")
    for name, controller in (("learned", actor.best), ("who demonstrated", by_hand)):
        env.reset(seed=options.seed + 1)
        found = [transitions(controller, env, lambda _: None) for _ in range(options.evaluate)]
        print(f"{name:<17} mean return {np.mean(found):8.1f}", flush=True)
    client.request("leave", {})
    client.stop()


def _explore(
    actor: Actor,
    env: gymnasium.Env[Any, Any],
    client: TrainerClient,
    store: QueuedDataStore,
    options: argparse.Namespace,
) -> None:
    pace, returns = Pace(options.rate), []

    def took(transition: dict[str, Any]) -> None:
        store.insert(transition)
        if len(store) % 20 == 0:
            client.update()
        pace.keep()

    print(f"{'steps':>8} {'gradient steps':>15} {'networks':>9} {'mean return of 5':>17}", flush=True)
    while len(store) < options.steps:
        returns.append(transitions(actor.explore, env, took))
        if len(returns) % 5 == 0:
            mean = np.mean(returns[-5:])
            print(f"{len(store):8,} {actor.gradient_steps:15,} {actor.received:9,} {mean:17.1f}", flush=True)


# -- the learner


class ReplayBufferDataStore(DataStoreBase):
    """A replay buffer of Stable-Baselines3 that a trainer's server fills while a learner draws from it."""

    def __init__(self, buffer: ReplayBuffer) -> None:
        super().__init__(buffer.buffer_size)
        self._buffer, self._latest, self._lock = buffer, -1, threading.Lock()

    def latest_data_id(self) -> int:
        """See ``DataStoreBase``."""
        return self._latest

    def insert(self, data: dict[str, Any]) -> None:
        """See ``DataStoreBase``."""
        with self._lock:
            self._buffer.add(
                data["observations"],
                data["next_observations"],
                data["actions"],
                np.array([data["rewards"]]),
                np.array([data["dones"]]),
                [{}],
            )
            self._latest += 1

    def sample(self, batch_size: int) -> ReplayBufferSamples:
        """Transitions, drawn with equal chances."""
        with self._lock:
            return self._buffer.sample(batch_size)

    def __len__(self) -> int:
        return self._buffer.size()


class EqualShares:
    """In the place of SAC's replay buffer: every batch has equal shares from each store that holds something."""

    def __init__(self, stores: list[ReplayBufferDataStore]) -> None:
        self._stores = stores

    def sample(self, batch_size: int, env: object = None) -> ReplayBufferSamples:
        """A batch; ``env`` would normalize it."""
        import torch
        from stable_baselines3.common.type_aliases import ReplayBufferSamples

        full = [store for store in self._stores if len(store)]
        parts = [store.sample(batch_size // len(full)) for store in full]
        *columns, _ = zip(*parts, strict=True)  # the last one is that of n-step returns
        return ReplayBufferSamples(*(torch.cat(column) for column in columns))


class Learner:
    """Owns the model, the two stores and the server that fills them."""

    def __init__(self, options: argparse.Namespace, ports: tuple[int, int]) -> None:
        from stable_baselines3 import SAC
        from stable_baselines3.common.buffers import ReplayBuffer
        from stable_baselines3.common.logger import configure

        self._env = gymnasium.make(ENVIRONMENT)
        self._env.reset(seed=options.seed + 2)
        observation, action = self._env.observation_space, self._env.action_space
        self._model = SAC("MlpPolicy", self._env, buffer_size=1, seed=options.seed, device="cpu", **SETTINGS)
        self._model.set_logger(configure(None, []))
        self._stores = {
            name: ReplayBufferDataStore(ReplayBuffer(50_000, observation, action, handle_timeout_termination=False))
            for name in ("actor", "demos")
        }
        self._model.replay_buffer = EqualShares(list(self._stores.values()))  # type: ignore[assignment]
        self._enough, self._left = threading.Event(), threading.Event()
        config = TrainerConfig(*ports, request_types=REQUESTS)
        self.server = TrainerServer(config, self._on_data, self._on_request, host=options.host)
        for name, store in self._stores.items():
            self.server.register_data_store(name, store)

    def watch_demonstrations(self, episodes: int) -> None:
        """Fill the store of demonstrations. Here they are made up at once; those of people would come from a client."""
        store = self._stores["demos"]
        returns = [transitions(by_hand, self._env, store.insert) for _ in range(episodes)]
        if returns:
            print(f"{len(store):,} transitions of demonstrations, mean return {np.mean(returns):.1f}", flush=True)

    def learn(self) -> None:
        """Learn and publish until the actor leaves."""
        self._publish()
        self._enough.wait()
        while not self._left.is_set():
            self._model.train(GRADIENT_STEPS, BATCH)
            self._publish()

    def _publish(self) -> None:
        weights = {name: value.numpy().copy() for name, value in self._model.policy.actor.state_dict().items()}
        self.server.publish_network({"gradient_steps": self._model._n_updates, "weights": weights})

    def _on_data(self, name: str, data: dict[str, Any]) -> None:
        if len(self._stores["actor"]) >= BEGIN:
            self._enough.set()

    def _on_request(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        if kind == "leave":
            self._left.set()
            self._enough.set()
        stored = {name: store.latest_data_id() + 1 for name, store in self._stores.items()}
        return {**stored, "gradient_steps": self._model._n_updates}


def learn(options: argparse.Namespace, ports: tuple[int, int], told: Connection | None = None) -> None:
    """The learner's process, until the actor leaves. ``told`` hears the ports."""
    import torch

    torch.set_num_threads(1)
    learner = Learner(options, ports)
    learner.watch_demonstrations(options.demonstrations)
    learner.server.start(threaded=True)
    ports = learner.server.port, learner.server.broadcast_port
    print(f"the learner is at {options.host}, ports {ports[0]} and {ports[1]}", flush=True)
    if told is not None:
        told.send(ports)
    learner.learn()
    learner.server.stop()


# -- the program


def both(options: argparse.Namespace) -> int:
    """Start the two processes; the exit code is that of whoever went wrong."""
    context = multiprocessing.get_context("spawn")
    heard, told = context.Pipe(duplex=False)
    learner = context.Process(target=learn, args=(options, (0, 0), told), name="learner")
    learner.start()
    told.close()
    try:
        ports = heard.recv()
    except EOFError:  # it went away before it could say anything
        learner.join()
        return 1
    actor = context.Process(target=act, args=(options, ports), name="actor")
    actor.start()
    actor.join()
    if actor.exitcode:
        learner.terminate()
    learner.join()
    return int(bool(actor.exitcode or learner.exitcode))


def main() -> None:
    """Be the actor, the learner, or the parent of both."""
    parser = argparse.ArgumentParser(description="An actor and a learner with agentlace's names.")
    parser.add_argument("role", nargs="?", choices=["both", "learner", "actor"], default="both")
    parser.add_argument("--host", default="127.0.0.1", help="of the learner")
    parser.add_argument("--port", type=int, default=5555, help="of data; networks come over the next one")
    parser.add_argument("--steps", type=int, default=5000, help="of the actor")
    parser.add_argument("--rate", type=float, default=50.0, help="steps a second of the system; 0: as fast as it goes")
    parser.add_argument("--demonstrations", type=int, default=10, help="episodes")
    parser.add_argument("--evaluate", type=int, default=20, help="episodes in the end")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ports = options.port, options.port + 1
    if options.role == "both":
        sys.exit(both(options))
    (learn if options.role == "learner" else act)(options, ports)


if __name__ == "__main__":
    main()
