"""The command line: run, report, compare, plan, audit, calibrate, regions, schema, store, zoo, list."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlprobe import __version__
from vlprobe.commands.audit import audit
from vlprobe.commands.calibrate import calibrate
from vlprobe.commands.card import card
from vlprobe.commands.compare import compare
from vlprobe.commands.log import log
from vlprobe.commands.push import push
from vlprobe.commands.regions import regions
from vlprobe.commands.report import report
from vlprobe.commands.schema import schema
from vlprobe.commands.store import store
from vlprobe.commands.zoo import zoo
from vlprobe.errors import StudyError, VlprobeError, many

if TYPE_CHECKING:
    from vlprobe.run import Part
    from vlprobe.study import Study

app = typer.Typer(
    help="What vision-language models know, at which layer, and whether from the image or from the text.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.", show_default=False)]
Seed = Annotated[int | None, typer.Option(help="Use this one seed.", show_default=False)]
Limit = Annotated[int | None, typer.Option(help="Use at most so many examples of each split.", show_default=False)]
Output = Annotated[Path | None, typer.Option(help="Results folder.", show_default=False)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps, auto.", show_default=False)]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="K/N", help="Compute part K of N of what models are run on, and no probes.", show_default=False
    ),
]
Workers = Annotated[
    int | None, typer.Option(help="Processes that run models; one for each GPU, else one.", min=1, show_default=False)
]
EngineName = Annotated[
    str | None, typer.Option("--engine", help="ray: run models on a Ray cluster.", show_default=False)
]
Address = Annotated[
    str | None, typer.Option(help="Of the Ray cluster; one is started here if not given.", show_default=False)
]
BatchSize = Annotated[int | None, typer.Option(help="Inputs at a time through a model.", show_default=False)]


STOPPED = 128 + signal.SIGINT
"""What typer leaves with where a command was interrupted: the interruption itself does not come out of it."""


class Catalogue(StrEnum):
    """What `vlprobe list` can list."""

    models = "models"
    tasks = "tasks"
    probes = "probes"
    conditions = "conditions"


@app.command()
def run(
    study: StudyPath,
    seed: Seed = None,
    limit: Limit = None,
    output: Output = None,
    device: Device = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    shard: Shard = None,
    engine: EngineName = None,
    address: Address = None,
) -> None:
    """Compute representations and probes of a study; print its tables. What is there is not computed again."""
    from rich.console import Console

    from vlprobe.engines import open_engine
    from vlprobe.findings import read_findings
    from vlprobe.report.overview import print_overview
    from vlprobe.report.summary import summarise
    from vlprobe.report.terminal import print_findings, print_tables

    opened = _open(study, seed, output, limit=limit, device=device, batch_size=batch_size)
    console = Console()
    chosen = None if (engine, workers, address) == (None, None, None) else open_engine(engine, workers, address)
    try:
        if shard is not None:
            done = opened.represent(_part(shard), progress=True, engine=chosen)
            _print_part(shard, done)
            return
        before = len(opened.results().known)
        results = opened.run(progress=True, engine=chosen)
    finally:
        if chosen is not None:
            chosen.close()
    made = len(opened.results().known) - before
    findings = read_findings(opened.output)
    summary = summarise(results, findings)
    print_tables(summary, console)
    print_findings(findings, opened.output, console)
    print_overview(summary, console)
    _print_notes(opened)
    said = f"{many(made, 'result')} computed" if made else "nothing to compute: all results were there"
    console.print(f"{said}. Results: {opened.output / 'results.jsonl'}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def plan(
    study: StudyPath,
    seed: Seed = None,
    limit: Limit = None,
    output: Output = None,
    device: Device = None,
    batch_size: BatchSize = None,
) -> None:
    """Say what a study would compute, and, from a trial of some inputs, how long that takes; compute nothing."""
    from vlprobe.estimate import estimate, free_space, peak_memory, probe_memory
    from vlprobe.estimate_probes import probe_seconds

    opened = _open(study, seed, output, limit=limit, device=device, batch_size=batch_size)
    made = opened.plan()
    store = opened.store()
    typer.echo(f"forward passes: {made.forward_passes:,}")
    tried = estimate(made, opened.file, opened.load)
    for each in tried:
        kept = f"; {each.stored:,} more are in the store" if each.stored else ""
        pace = f", about {_duration(each.seconds)} at {each.rate:.3g} a second" if each.tried else ""
        typer.echo(f"  {each.model}: {each.inputs:,}{pace}{kept}")
    times = [f"about {_duration(sum(each.seconds for each in tried))} for the models"] if made.forward_passes else []
    if made.probes and not made.streaming:
        times.append(f"about {_duration(probe_seconds(made, store, opened.file.device))} for the probes")
    if times:
        typer.echo(f"time: {', '.join(times)}, in one process")
    if made.probes:
        takes = (
            f"statistics alone: {made.statistics / 1e9:.3g}"
            if made.streaming
            else f"features: {made.feature_bytes / 1e9:.3g}"
        )
        typer.echo(f"{takes} GB; {free_space(store.folder) / 1e9:.3g} GB are free in {store.folder}")
        trial = f"{peak_memory() / 1e9:.2g} GB in the trial, " if any(each.tried for each in tried) else ""
        whose = "the statistics" if made.streaming else "a probe"
        typer.echo(f"memory: {trial}about {probe_memory(made) / 1e9:.2g} GB more for {whose}")
    typer.echo(f"probes: {made.probes:,} to compute, {made.done:,} done")
    for note in made.notes:
        typer.echo(f"note: {note}")
    for line in made.damaged:
        typer.echo(f"note: {line}, and was removed; what it held is computed again where it is needed")
    _print_left_out(made.skipped, "`vlprobe run` lists all of them in study.json")


app.command()(report)
app.command()(compare)
app.command()(audit)
app.command()(calibrate)
app.command()(regions)
app.command()(card)
app.command()(log)
app.command()(push)
app.command()(schema)
app.add_typer(store, name="store")
app.add_typer(zoo, name="zoo")


@app.command("list")
def list_(what: Annotated[Catalogue, typer.Argument(help="The catalogue.", show_default=False)]) -> None:
    """List the models, tasks, probes or conditions that a study file can name."""
    for name, text in _catalogue(what).items():
        typer.echo(f"{name:<20} {text}")


def _catalogue(what: Catalogue) -> dict[str, str]:
    """Return name -> description."""
    if what is Catalogue.models:
        from vlprobe.encoders import FAMILIES

        own = {"(your own)": "a class in a Python file: `file`, `class`, `options`; see docs/study-file.md"}
        return {name: f"{family.about}; {family.layers}" for name, family in FAMILIES.items()} | own
    if what is Catalogue.tasks:
        from vlprobe.scenes.tasks import RECIPES
        from vlprobe.tasks import TASKS

        drawn = {"(on drawn scenes)": f"{', '.join(RECIPES)}: `scenes`; see docs/study-file.md"}
        return {name: f"{row.level}, {row.unit}: {row.description}" for name, row in TASKS.items()} | drawn
    if what is Catalogue.probes:
        from vlprobe.probes import CONTROLS, PROBES

        return PROBES | {name: f"control: {text}" for name, text in CONTROLS.items()}
    from vlprobe.pairing import CONDITIONS

    return CONDITIONS | {"A>B": "the probe is trained on A and tested on B, e.g. matched>mismatched"}


def _open(path: Path, seed: int | None, output: Path | None, **settings: int | str | None) -> Study:
    from vlprobe.study import Study

    seeds, place = (None if seed is None else [seed]), (None if output is None else str(output))
    return Study.from_file(path, seeds=seeds, output=place, **settings)


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def _part(shard: str) -> tuple[int, int]:
    first, slash, second = shard.partition("/")
    if not (slash and first.isascii() and first.isdigit() and second.isascii() and second.isdigit()):
        raise StudyError(f"--shard {shard}: write K/N, part K of N, e.g. 3/16")
    return int(first), int(second)


def _print_part(shard: str, done: Part) -> None:
    """Say what one process of several has done, and what comes next."""
    ran = f"{many(done.inputs, 'input')} run"
    if done.waits:
        typer.echo(f"shard {shard}: {ran}, and it needs what others have not done yet")
        for line in done.waits:
            typer.echo(f"waiting: {line}")
        typer.echo("once the other shards have ended, run all of them again, or without --shard, which does the rest")
        return
    left = ran if done.inputs else "nothing was left to run"
    typer.echo(f"shard {shard}: {left}; once all shards are done, run without --shard: it makes the results")


def _print_notes(opened: Study) -> None:
    from vlprobe.results import of_study

    results = opened.results()
    described = results.description()
    for note in described["not_done"]:
        typer.echo(f"note: {note}")
    place = opened.output / "study.json"
    found = results.all()
    others = len(found) - len(of_study(found, described))
    if others:
        typer.echo(
            f"note: {opened.output / 'results.jsonl'} holds {many(others, 'more result')}, of an earlier version of "
            "this study or of its data, or of another study; nothing is shown of them"
        )
    again = described.get("computed_again", ())
    if again:
        typer.echo(
            f"note: {len(again)} results or representations were lost or damaged and are made again: see {place}"
        )
    _print_left_out(described["skipped_rows"], f"all are listed in {place}")


def _print_left_out(lines: Sequence[str], where: str) -> None:
    if lines:
        typer.echo(f"{many(len(lines), 'row')} left out (bad_rows: skip); {where}:")
    for line in lines[:5]:
        typer.echo(f"  {line}")


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; what is wrong with the input is said in a message, not in a traceback.

    It leaves with 130 where Ctrl-C has stopped it, with 143 where SIGTERM has, as which Slurm and containers call time.
    """
    received = [signal.SIGINT]

    def stop(number: int, _: object) -> None:
        received[0] = signal.Signals(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        app()
    except VlprobeError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except (KeyboardInterrupt, SystemExit) as left:
        if isinstance(left, SystemExit) and left.code != STOPPED:
            raise
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever asks again ends it at once, without a traceback
        print("Stopped. What is finished is kept; the same command goes on from there.", file=sys.stderr)
        raise SystemExit(128 + received[0]) from None
    finally:
        signal.signal(signal.SIGTERM, before)
