"""One agent on CartPole: ADDRESS EXPERIMENT AGENTS TOTAL NAME."""

from __future__ import annotations

import sys

import gymnasium

from auxilium_rl.agent import Agent


def main() -> None:
    address, experiment, agents, total, name = sys.argv[1:]
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=int(name[1:]))
    with Agent(
        env.observation_space,
        env.action_space,
        address=address,
        experiment_id=experiment,
        agent_id=name,
        agents=int(agents),
        synchronous=True,
        total_timesteps=int(total),
        seed=0,
    ) as agent:
        while not agent.run_ended:
            step = agent.act(observation)
            observation, reward, terminated, truncated, _ = env.step(step.action)
            step.reward(float(reward))
            if terminated or truncated:
                agent.end(terminated=terminated, truncated=truncated and not terminated, final_obs=observation)
                observation, _ = env.reset()


if __name__ == "__main__":
    main()
