"""``auxilium policies``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from auxilium_rl.cli.common import DEFAULT_ADDRESS, EXIT, Address, JsonOutput, as_json, connected, fail, pair
from auxilium_rl.cli.policy import act

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="NAME, NAME@VERSION, NAME@ALIAS, or a run's id.")]
Env = Annotated[str, typer.Option(help="Where to play; none: where its run trained.")]
_WIDE = 1000


@app.command("list")
def list_policies(
    tag: Annotated[list[str] | None, typer.Option(help="Only those with this key=value; may come again.")] = None,
    json_output: JsonOutput = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """List policies by name."""
    tags = dict(_tag(text) for text in tag or ())
    with connected(address) as client:
        found = list(client.policies(tags=tags))
    if json_output:
        typer.echo(as_json(found))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("policy", "versions", "aliases", "algorithm", "timesteps", "tags", box=None)
    for info in found:
        newest = info.versions[-1]
        aliases = " ".join(f"{alias}={version}" for alias, version in sorted(info.aliases.items()))
        told = " ".join(f"{key}={value}" for key, value in sorted(info.tags.items()))
        cells = (info.name, str(len(info.versions)), aliases, newest.algorithm, f"{newest.timesteps:,}", told)
        table.add_row(*map(Text, cells))
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


@app.command()
def show(name: Name, json_output: JsonOutput = False, address: Address = DEFAULT_ADDRESS) -> None:
    """Show a policy with its versions, or one version."""
    with connected(address) as client:
        policy = client.policy(name)
        if "@" in name:
            version = policy.version()
            if json_output:
                typer.echo(as_json(version))
                return
            for field in type(version).__dataclass_fields__:
                value = getattr(version, field)
                if field == "evaluations":
                    for made in value:
                        typer.echo(f"{'evaluation':<14} {_told(made)}")
                elif value not in ("", (), {}, None):
                    typer.echo(f"{field:<14} {value}")
            return
        info = policy.info()
    if json_output:
        typer.echo(as_json(info))
        return
    typer.echo(f"{'name':<14} {info.name}\n{'best by':<14} {info.criterion}")
    for title, mapping in (("aliases", info.aliases), ("tags", info.tags)):
        if mapping:
            typer.echo(f"{title:<14} {' '.join(f'{key}={value}' for key, value in sorted(mapping.items()))}")
    if info.notes:
        typer.echo(f"{'notes':<14} {info.notes}")
    for version in info.versions:
        newest = f"  {_told(version.evaluations[-1])}" if version.evaluations else ""
        pointing = f"  ({', '.join(version.aliases)})" if version.aliases else ""
        typer.echo(
            f"version {version.version:<6} {version.timesteps:>12,} timesteps of {version.run_id}{pointing}{newest}"
        )


@app.command()
def publish(
    run_id: Annotated[str, typer.Argument(help="Id of the run.")],
    name: Annotated[str, typer.Option(help="Of the policy; none: the one that the run publishes.")] = "",
    timesteps: Annotated[int | None, typer.Option(help="Of the checkpoint; none: the newest.")] = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Make a version of a run's checkpoint."""
    with connected(address) as client:
        made = client.publish(run_id, name=name, timesteps=timesteps)
    typer.echo(f"{made.name}@{made.version}")


@app.command()
def alias(
    name: Annotated[str, typer.Argument(help="Name of the policy.")],
    alias: Annotated[str, typer.Argument(help="Alias to move or make.")],
    version: Annotated[int | None, typer.Argument(help="Version it points to; none: the alias is deleted.")] = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Point an alias to a version, or delete it."""
    with connected(address) as client:
        policy = client.policy(name)
        info = policy.delete_alias(alias) if version is None else policy.set_alias(alias, version)
    typer.echo(" ".join(f"{key}={value}" for key, value in sorted(info.aliases.items())))


@app.command()
def update(
    name: Annotated[str, typer.Argument(help="Name of the policy.")],
    tag: Annotated[list[str] | None, typer.Option(help="key=value; may come again.")] = None,
    untag: Annotated[list[str] | None, typer.Option(help="Key of a tag that goes; may come again.")] = None,
    notes: Annotated[str | None, typer.Option(help="What is worth knowing of it.")] = None,
    best_by: Annotated[
        str, typer.Option(help="mean_return, mean_length, success_rate or a KPI; with - before it: lower is better.")
    ] = "",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Change a policy's tags, notes, or by what its best version is chosen."""
    tags = dict(_tag(text) for text in tag or ())
    with connected(address) as client:
        client.policy(name).update(set_tags=tags, remove_tags=untag or (), notes=notes, criterion=best_by)
    typer.echo(name)


@app.command("eval")
def evaluate(
    name: Name,
    episodes: Annotated[int, typer.Option(help="How many.")] = 10,
    env: Env = "",
    seed: Annotated[int | None, typer.Option(help="Makes it repeatable.")] = None,
    stochastic: Annotated[bool, typer.Option("--stochastic", help="Draw actions from the policy.")] = False,
    json_output: JsonOutput = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Play episodes on the server's side, and keep what they come to."""
    with connected(address) as client:
        found = client.policy(name).evaluate(episodes, env=env, seed=seed, deterministic=not stochastic)
    typer.echo(as_json(found) if json_output else _told(found))


@app.command()
def compare(
    first: Name,
    second: Name,
    episodes: Annotated[int, typer.Option(min=2, help="Of each.")] = 20,
    env: Env = "",
    seed: Annotated[int, typer.Option(help="Of both.")] = 0,
    json_output: JsonOutput = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Evaluate two versions alike: the difference of their mean returns with its 95 % confidence interval."""
    from auxilium_rl.client.comparison import compare as compared

    with connected(address) as client:
        found = compared(client.policy(first), client.policy(second), episodes, env=env, seed=seed)
    if json_output:
        typer.echo(as_json(found))
        return
    for name, evaluation in ((first, found.first), (second, found.second)):
        typer.echo(f"{name:<24} {_told(evaluation)}")
    typer.echo(f"difference {found.difference:.2f}, 95 % between {found.low:.2f} and {found.high:.2f}: {found.verdict}")


@app.command()
def export(
    name: Name,
    form: Annotated[str, typer.Option("--format", help="onnx, sb3, safetensors or torchscript.")],
    out: Annotated[Path, typer.Option(help="File that is written.")],
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Write a version to a file that others read without us."""
    from auxilium_rl.client.exporting import FORMATS
    from auxilium_rl.client.exporting import export as exported

    if form not in FORMATS:
        fail(f"--format {form}: {', '.join(FORMATS)} are accepted", EXIT.USAGE)
    if not out.absolute().parent.is_dir():
        fail(f"--out {out}: there is no folder {out.absolute().parent}", EXIT.USAGE)
    with connected(address) as client:
        for line in exported(client.policy(name), form, out):
            typer.echo(line)


@app.command("import")
def import_model(
    file: Annotated[Path, typer.Argument(help="A zip that Stable-Baselines3 or sb3-contrib saved.")],
    name: Annotated[str, typer.Option(help="Of the policy that it becomes a version of.")],
    algorithm: Annotated[str, typer.Option(help="That it was trained with; see `auxilium algorithms`.")],
    env: Annotated[str, typer.Option(help="With the spaces it was trained on: gym:<id>, grpc://host:port.")],
    policy: Annotated[str, typer.Option(help="MlpPolicy, CnnPolicy, MultiInputPolicy; none: as the spaces need.")] = "",
    frame_stack: Annotated[int, typer.Option(help="How many observations it saw at once.")] = 0,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", help="Hyperparameter, as key=value; policy_kwargs is one.")
    ] = None,
) -> None:
    """Make a version of a model that was trained elsewhere. For the operator: run it where the server's data is.

    Nothing of the file is unpickled: its tensors are read, everything else is what the options declare.
    """
    if not file.is_file():
        fail(f"{file}: there is no such file", EXIT.USAGE)
    job = {
        "file": str(file.absolute()),
        "name": name,
        "algorithm": algorithm,
        "env": env,
        "policy": policy,
        "frame_stack": frame_stack,
        "hyperparameters": dict(pair(text) for text in parameter or ()),
    }
    # A process of its own: this command does not load torch, nor does the server.
    done = subprocess.run(
        [sys.executable, "-m", "auxilium_rl.infra.importing"],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout or "{}")
    if "made" not in told:
        fail(told.get("refused", "the import failed"), EXIT.USAGE if done.returncode == 2 else EXIT.FAILED)
    typer.echo(f"{told['made']}: {told['timesteps']:,} timesteps, does what Stable-Baselines3's predict does")


@app.command()
def delete(
    name: Annotated[str, typer.Argument(help="NAME@VERSION, or NAME with all its versions.")],
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Delete a version that nothing points to, or a policy."""
    base, at, version = name.partition("@")
    if at and not version.isdigit():
        fail(f"{name}: NAME@VERSION with a number is accepted, or NAME", EXIT.USAGE)
    with connected(address) as client:
        if at:
            client.policy(base).delete_version(int(version))
            typer.echo(f"{name} deleted")
        else:
            typer.echo(f"{client.policy(base).delete():,} bytes freed")


app.command("act", context_settings={"ignore_unknown_options": True})(act)


def _told(evaluation: object) -> str:
    from auxilium_rl.client import Evaluation

    assert isinstance(evaluation, Evaluation)
    success = "" if evaluation.success_rate is None else f", success {evaluation.success_rate:.0%}"
    kpis = "".join(f", {key} {value:g}" for key, value in evaluation.kpis.items())
    return (
        f"return {evaluation.mean_return:.2f} ± {evaluation.std_return:.2f}, length {evaluation.mean_length:.1f}"
        f"{success}{kpis}  ({len(evaluation.episodes)} episodes on {evaluation.environment}, seed {evaluation.seed})"
    )


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        fail(f"--tag {text}: key=value is accepted", EXIT.USAGE)
    return key, value
