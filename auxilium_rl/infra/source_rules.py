"""Which environments the operator allows: asked by the server before a run is accepted, and again by its worker."""

from __future__ import annotations

from pathlib import Path

import gymnasium

from auxilium_rl.infra.config import Settings

__all__ = ["source_refusal", "unix_path"]


def source_refusal(uri: str, settings: Settings) -> str:
    """Why a well-formed uri cannot be trained on here; empty: it can."""
    scheme, _, rest = uri.partition(":")
    if scheme == "gym":
        return _gym_refusal(rest, settings)
    if scheme == "unix":
        return _unix_refusal(unix_path(uri), settings)
    return ""


def unix_path(uri: str) -> Path:
    """The socket that ``unix:///path`` names."""
    return Path(uri.removeprefix("unix://"))


def _gym_refusal(env_id: str, settings: Settings) -> str:
    if ":" not in env_id and (env_id in gymnasium.registry or env_id in settings.gym_env_ids):
        return ""
    return f"the environment ids of Gymnasium {gymnasium.__version__} and of GYM_ENV_IDS are accepted"


def _unix_refusal(path: Path, settings: Settings) -> str:
    root = settings.sim_unix_dir
    if root is None:
        return "Unix sockets are accepted below SIM_UNIX_DIR only, which is not set"
    # Resolved, so that no link leads out of the folder.
    if not path.is_absolute() or not path.resolve().is_relative_to(root.resolve()):
        return f"paths below {root.resolve()} are accepted"
    return ""
