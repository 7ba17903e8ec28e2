"""A simulator somewhere else as a Gymnasium environment of this process."""

from auxilium_rl.remote.env import RemoteEnv, RemoteVectorEnv

__all__ = ["RemoteEnv", "RemoteVectorEnv"]
