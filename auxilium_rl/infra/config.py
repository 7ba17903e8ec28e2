"""The settings: the only place that reads the environment and the settings file.

Order of precedence: arguments, then environment variables, then the file that ``AUXILIUM_CONFIG`` names (TOML or JSON),
then the defaults here.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

__all__ = ["EnvConfig", "ServiceConfig", "Settings", "setting_errors"]

CONFIG_VARIABLE = "AUXILIUM_CONFIG"


class Settings(BaseSettings):
    """Every setting of the server and its workers. Names are the environment variables, in any case."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    grpc_host: str = Field("127.0.0.1", description="Address the server listens on.")
    grpc_port: int = Field(50051, ge=0, le=65535, description="Port the server listens on; 0 takes a free one.")
    grpc_max_workers: int = Field(10, ge=1, le=1000, description="Threads that answer unary calls.")
    grpc_max_message_mb: int = Field(16, ge=1, le=1024, description="Largest message accepted, in MiB.")
    max_watch_streams: int = Field(
        128, ge=1, le=10_000, description="Streams served at once: WatchRun, and as many of health's Watch."
    )
    data_dir: Path = Field(Path("data"), description="Folder of everything the server keeps.")
    models_dir: Path | None = Field(None, description="Folder of finished models. Default: DATA_DIR/models.")
    checkpoint_dir: str | None = Field(
        None, description="Folder or URL (s3://bucket/folder) of checkpoints. Default: DATA_DIR/checkpoints."
    )
    logs_dir: Path | None = Field(None, description="Folder of worker logs and TensorBoard. Default: DATA_DIR/logs.")
    model_export_root: Path | None = Field(None, description="Root of model_output_path. Default: MODELS_DIR.")
    database_url: SecretStr | None = Field(None, description="SQLAlchemy URL. Default: SQLite in DATA_DIR.")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field("auto", pattern="^(auto|json|console)$", description="auto: console on a terminal.")
    simulation_grpc_host: str = Field("localhost:50062", description="The simulator of runs that name gym_ids.")
    sim_connect_timeout: float = Field(10.0, gt=0, description="Seconds a simulator has to be reachable at start.")
    sim_reset_timeout: float = Field(120.0, gt=0, description="Seconds a Reset may take.")
    sim_step_timeout: float = Field(60.0, gt=0, description="Seconds a Step may take.")
    sim_close_timeout: float = Field(10.0, gt=0, description="Seconds one Close may take before it is tried again.")
    sim_wait_limit: float = Field(
        0.0, ge=0, description="Seconds a run waits for a simulator that went away before it fails; 0: for ever."
    )
    sim_fast_lane: bool = Field(True, description="Take the fast lane that a simulator offers.")
    sim_fast_lane_anywhere: bool = Field(False, description="Fast lanes over TCP may leave this machine, unencrypted.")
    sim_unix_dir: Path | None = Field(None, description="Folder of Unix sockets that runs may name (unix:///path).")
    attach_token: SecretStr | None = Field(None, description="What simulators that dial in must show; unset: nothing.")
    max_attached_simulators: int = Field(64, ge=1, description="Simulators attached to one run, spares included.")
    max_attached_streams: int = Field(128, ge=1, le=4096, description="Simulators attached at once, over all runs.")
    default_env: str = Field("fake", description="Environment of runs that name none: fake, gym:<id> or grpc.")
    gym_env_ids: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Gymnasium ids allowed beside those Gymnasium ships, with commas between."
    )
    observation_dim: int = Field(
        4,
        ge=1,
        validation_alias=AliasChoices("observation_dim", "obs_dim"),
        description="Observations, not negotiated.",
    )
    action_dim: int = Field(4, ge=1, description="Number of actions where none was negotiated.")
    max_steps: int = Field(
        500, ge=1, description="Steps after which an episode is truncated where none was negotiated."
    )
    max_concurrent_runs: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="Runs training at once. Default: cores."
    )
    lease_seconds: float = Field(30.0, gt=0, description="Seconds that a run stays a worker's that is not heard of.")
    heartbeat_seconds: float = Field(10.0, gt=0, description="Seconds between a worker's signs of life.")
    stall_timeout: float = Field(
        1800.0, ge=0, description="Seconds without a step after which a worker is replaced; 0: never."
    )
    max_attempts: int = Field(
        3,
        ge=1,
        description="Workers of a run that may die without a new checkpoint; then it is FAILED.",
    )
    max_queued_runs: int = Field(1000, ge=1, description="Runs that may wait; one more is refused.")
    max_unfinished_runs_per_experiment: int = Field(
        0, ge=0, description="Runs of one experiment that may be under way or wait; 0: as many as fit."
    )
    worker_torch_threads: int = Field(1, ge=1, description="Torch threads of a worker.")
    checkpoint_freq: int = Field(10_000, ge=1, description="Timesteps between checkpoints.")
    checkpoint_keep: int = Field(3, ge=1, description="Newest checkpoints of a run that stay.")
    checkpoint_keep_best: int = Field(
        1, ge=0, description="Checkpoints of a run with the best mean return of then that stay as well."
    )
    retention_days: float = Field(0.0, ge=0, description="Days after which ended runs are deleted; 0: never.")
    retention_keep_last: int = Field(0, ge=0, description="Newest ended runs of an experiment that stay all the same.")
    retention_keep_best: int = Field(0, ge=0, description="Best ended runs of an experiment that stay all the same.")
    policies_dir: str | None = Field(
        None,
        description="Folder or URL of policies' versions. Default: DATA_DIR/policies, or beside a URL's checkpoints.",
    )
    experience_dir: Path | None = Field(
        None,
        description="Folder of what agents pushed; shared by servers that share a database. Default: below DATA_DIR.",
    )
    max_agents: int = Field(128, ge=1, le=4096, description="Agents connected at once, over all runs.")
    replay_shards: int = Field(
        0, ge=0, le=256, description="Processes that hold the experience of off-policy runs on agents; 0: each worker."
    )
    act_workers: int = Field(1, ge=1, le=256, description="Processes that act; above 1 they share the port.")
    act_cache_mb: int = Field(512, ge=1, description="Graphs of loaded policies that are kept for acting, in MiB.")
    act_fast_lane: str = Field(
        "unix",
        pattern="^(unix|tcp|off)$",
        description="Socket for callers of this machine who act: unix, tcp or off.",
    )
    act_max_streams: int = Field(128, ge=1, le=10_000, description="Calls of ActStream served at once.")
    act_max_batch: int = Field(4096, ge=1, le=65_536, description="Observations in one request to act.")
    max_concurrent_evaluations: int = Field(2, ge=1, description="Evaluations at once that callers asked for.")
    shutdown_grace: float = Field(25.0, ge=0, description="Seconds runs have to save at shutdown.")
    health_probe_interval: float = Field(2.0, gt=0, description="Seconds between write probes of database and store.")
    algorithms: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Defaults by algorithm.")

    @field_validator("checkpoint_dir", "policies_dir", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @field_validator("act_workers")
    @classmethod
    def _can_share(cls, value: int) -> int:
        if value > 1 and not hasattr(socket, "SO_REUSEPORT"):
            raise ValueError("this system cannot share a port among processes; 1 is accepted")
        return value

    @field_validator("replay_shards")
    @classmethod
    def _has_unix_sockets(cls, value: int) -> int:
        if value and not (hasattr(socket, "AF_UNIX") and os.name == "posix"):
            raise ValueError("this system has no Unix sockets, over which shards answer; 0 is accepted")
        return value

    @field_validator("database_url")
    @classmethod
    def _shared(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and value.get_secret_value() in {"sqlite://", "sqlite:///", "sqlite:///:memory:"}:
            raise ValueError("a database in memory cannot be shared with workers, which are processes of their own")
        return value

    @field_validator("gym_env_ids", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
            raise ValueError("must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
        return value.upper()

    @field_validator("default_env")
    @classmethod
    def _known_default_env(cls, value: str) -> str:
        if value not in {"fake", "grpc"} and not value.startswith("gym:"):
            raise ValueError("must be fake, grpc or gym:<Gymnasium id>")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, settings file; nothing else is read."""
        path = os.environ.get(CONFIG_VARIABLE)
        if not path:
            return init_settings, env_settings
        if not Path(path).is_file():
            raise ValueError(f"{CONFIG_VARIABLE}={path}: no such file")
        reader = JsonConfigSettingsSource if path.endswith(".json") else TomlConfigSettingsSource
        return init_settings, env_settings, reader(settings_cls, path)

    @property
    def models_folder(self) -> Path:
        """Absolute folder of finished models."""
        return (self.models_dir or self.data_dir / "models").absolute()

    @property
    def checkpoint_place(self) -> str:
        """Absolute folder of checkpoints, or a URL."""
        if self.checkpoint_dir and "://" in self.checkpoint_dir:
            return self.checkpoint_dir
        return str(Path(self.checkpoint_dir or self.data_dir / "checkpoints").absolute())

    @property
    def experience_folder(self) -> Path:
        """Absolute folder of agents' experience."""
        return (self.experience_dir or self.data_dir / "experience").absolute()

    @property
    def policies_place(self) -> str:
        """Absolute folder of policies' versions, or a URL."""
        checkpoints = self.checkpoint_dir or ""
        bucket, _, folder = checkpoints.partition("://")[2].rstrip("/").partition("/")
        if self.policies_dir is None and bucket and folder:  # where checkpoints are everybody's, policies are too
            return f"{checkpoints.rstrip('/')}-policies"
        if self.policies_dir and "://" in self.policies_dir:
            return self.policies_dir
        return str(Path(self.policies_dir or self.data_dir / "policies").absolute())

    @property
    def logs_folder(self) -> Path:
        """Absolute folder of worker logs and TensorBoard event files."""
        return (self.logs_dir or self.data_dir / "logs").absolute()

    @property
    def export_root(self) -> Path:
        """Absolute root of ``model_output_path``."""
        return (self.model_export_root or self.models_folder).absolute()

    @property
    def sql_url(self) -> str:
        """The SQLAlchemy URL; may hold a password, so never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'auxilium.db').absolute()}"

    def to_worker(self) -> str:
        """JSON that ``from_worker`` reads in a worker; holds the database's password, so it travels by pipe only."""
        data = self.model_dump(mode="json")
        data["database_url"] = self.sql_url
        data.pop("attach_token")  # the server's alone
        return json.dumps(data)

    @classmethod
    def from_worker(cls, text: str) -> Settings:
        """The settings that ``to_worker`` wrote. Every field is given, so the worker's environment decides nothing."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class ServiceConfig:
    """What an embedding program says of the server; see ``transport.grpc_server.create_server``."""

    host: str = "127.0.0.1"
    port: int = 50051
    max_workers: int = 10
    checkpoint_dir: str = "data/checkpoints"
    models_dir: str = "data/models"
    log_level: str = "INFO"


@dataclass(frozen=True)
class EnvConfig:
    """The shape of environments where none was negotiated."""

    observation_dim: int = 4
    action_dim: int = 4
    max_steps: int = 500


def setting_errors(error: Exception) -> str:
    """What is wrong with which setting, without its value where that may be a secret."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False))
