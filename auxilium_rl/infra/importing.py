"""A process that makes a policy's version of a model that Stable-Baselines3 saved elsewhere, for the operator.

The job comes as JSON on standard input, what was made goes as a line of JSON to standard output. Of the zip only its
tensors and the number of timesteps are read; everything else is declared and built anew, so nothing of it is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from auxilium_rl.core.dto import EnvironmentSource, EnvironmentSpec
from auxilium_rl.core.errors import AuxiliumError, InvalidRequest
from auxilium_rl.core.learner_state import read_parameters
from auxilium_rl.core.model_building import artifact_of, build_model
from auxilium_rl.core.policies import NewVersion, PolicyVersion, check_chosen_name
from auxilium_rl.core.requests import RequestDefaults, StartRequest, build_spec
from auxilium_rl.core.sources import SourceDefaults
from auxilium_rl.infra.config import Settings
from auxilium_rl.infra.environments import open_lanes
from auxilium_rl.infra.impatience import Impatience
from auxilium_rl.infra.policy_store import PolicyStore
from auxilium_rl.infra.source_rules import source_refusal
from auxilium_rl.infra.sql.database import migrate, open_database
from auxilium_rl.infra.sql.policies import SqlPolicyRegistry

__all__ = ["main"]


def main() -> int:
    """Do the job; gives the exit code."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an environment prints is no answer of ours
    job = json.loads(sys.stdin.read())
    try:
        made = _imported(job, Settings())
    except AuxiliumError as error:
        told.write(json.dumps({"refused": error.message}) + "\n")
        return 2 if isinstance(error, InvalidRequest) else 1
    told.write(json.dumps({"made": f"{made.name}@{made.version}", "timesteps": made.timesteps}) + "\n")
    return 0


def _imported(job: dict[str, Any], settings: Settings) -> PolicyVersion:
    name = check_chosen_name(job["name"], "name")
    data = Path(job["file"]).read_bytes()
    timesteps = _timesteps(data)
    shape = EnvironmentSpec(settings.observation_dim, settings.action_dim, max_steps=settings.max_steps)
    source = SourceDefaults(shape, "fake", settings.simulation_grpc_host, lambda uri: source_refusal(uri, settings))
    request = StartRequest(
        algorithm=job["algorithm"],
        experiment_id="import",
        total_timesteps=1,
        seed=0,
        hyperparameters=job["hyperparameters"],
        environment=EnvironmentSource(job["env"], lanes=0),
        policy=job["policy"],
        frame_stack=job["frame_stack"],
    )
    spec = build_spec(request, RequestDefaults(source, 1), None, str)
    lanes = open_lanes(spec.environment, settings, Impatience())
    try:
        model, algorithm = build_model(spec, lanes)
        try:
            read_parameters(model, data)
        except (KeyError, ValueError, RuntimeError) as error:
            raise InvalidRequest.of(
                "file",
                f"its tensors are not those of {algorithm} with these hyperparameters on '{job['env']}': {error}",
            ) from error
        archive = io.BytesIO()
        model.num_timesteps = timesteps
        model.save(archive)
        files = {"model.zip": archive.getvalue(), **artifact_of(model, algorithm, spec, lanes).files()}
    finally:
        lanes.close()
    return _published(name, files, algorithm, timesteps, hashlib.sha256(data).hexdigest(), settings)


def _published(
    name: str, files: dict[str, bytes], algorithm: str, timesteps: int, sha256: str, settings: Settings
) -> PolicyVersion:
    engine = open_database(settings.sql_url)
    migrate(engine)
    store = PolicyStore(settings.policies_place)
    origin = f"import:{sha256[:32]}"
    stored = store.put(name, files, {"imported": sha256})
    new = NewVersion(
        name=name,
        run_id=origin,
        algorithm=algorithm,
        timesteps=timesteps,
        contract_hash=json.loads(files["policy.json"])["contract_hash"],
        path=stored.path,
        manifest_sha256=stored.manifest_sha256,
        files=stored.files,
        metrics={},
        created_at=datetime.now(timezone.utc),
    )
    try:
        made = SqlPolicyRegistry(engine).publish(new)
    finally:
        engine.dispose()
    assert made is not None
    if made.path != stored.path:  # the same file was imported before
        store.remove(stored.path)
    return made


def _timesteps(data: bytes) -> int:
    """What the zip says of it. Raises InvalidRequest for what is no zip of Stable-Baselines3's."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            timesteps = json.loads(archive.read("data"))["num_timesteps"]
            archive.getinfo("policy.pth")
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise InvalidRequest.of("file", f"no zip that Stable-Baselines3 saved: {error}") from error
    if not isinstance(timesteps, int) or timesteps < 0:
        raise InvalidRequest.of("file", f"num_timesteps is {timesteps!r:.40}; a whole number is accepted")
    return timesteps


if __name__ == "__main__":
    sys.exit(main())
