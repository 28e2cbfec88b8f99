"""`vlprobe store`: what representations are kept, whether they are whole, and what may go."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vlprobe.streams.files import Kept

store = typer.Typer(help="Representations on disk: list them, verify them, remove them.", no_args_is_help=True)

Folder = Annotated[
    Path | None,
    typer.Option("--store", help="Its folder; ~/.cache/vlprobe/features if not given.", show_default=False),
]


ABANDONED = 30 * 24 * 3600
"""Seconds after which statistics that wait for their results are taken to be of a study that nobody goes on with."""


@dataclass(frozen=True)
class Home:
    """One model's folder."""

    path: Path
    """The folder."""
    manifest: dict[str, Any]
    """What its manifest says; empty where it is missing or damaged."""
    shards: tuple[Path, ...]
    """Its files of representations."""
    leftovers: tuple[Path, ...]
    """What runs that were killed left unfinished, an hour ago or longer."""

    def __str__(self) -> str:
        if not self.manifest:
            return f"{self.path.name} (no manifest)"
        about = self.manifest
        numbers = about["dtype"] if about["precision"] == "float32" else f"{about['precision']} as {about['dtype']}"
        return f"{about['model']} ({about['stage']}, {about['family']}, {numbers}, {about['revision'][:12]})"


@store.command("list")
def list_(folder: Folder = None) -> None:
    """List the models whose representations are kept, with inputs and size."""
    homes = list(_homes(folder))
    for home in homes:
        typer.echo(str(home))
        typer.echo(f"  {_size(home.shards) / 1e9:.3g} GB in {len(home.shards)} shards: {home.path}")
        sections, outdated, unread = _sections(home)
        for section, questions in sorted(sections.items()):
            typer.echo(f"  {questions:,} inputs: {section.replace(':', ', ')}")
        for line in unread:
            typer.echo(f"  {line}")
        if outdated:
            typer.echo(f"  {outdated:,} shards of another version of vlprobe, of no use: `vlprobe store prune`")
    waiting = _waiting(folder)
    for each in waiting:
        typer.echo(f"statistics: {each}")
        age = _age(time.time() - _written(each))
        typer.echo(
            f"  {_size(each.files) / 1e9:.3g} GB in {len(each.files)} files, last written {age} ago: {each.path}"
        )
    size = sum(_size(home.shards) for home in homes) + sum(_size(each.files) for each in waiting)
    typer.echo(f"{size / 1e9:.3g} GB in all: {_place(folder)}")


@store.command()
def verify(folder: Folder = None) -> None:
    """Read every file and compare its checksums; damaged ones are named, and computed again by the next run."""
    from vlprobe.errors import DataError
    from vlprobe.store import Damaged, Shard
    from vlprobe.streams.files import damage

    damaged: list[str] = []
    unread: list[str] = []
    checked = 0
    for home in _homes(folder):
        for path in home.shards:
            checked += 1
            try:
                Shard(path).verify()
            except DataError as error:
                (damaged if isinstance(error, Damaged) else unread).append(str(error))
    statistics = [path for each in _waiting(folder) for path in each.files]
    damaged += filter(None, map(damage, statistics))
    for line in (*damaged, *unread):
        typer.echo(line)
    also = f" and {len(statistics)} files of statistics" if statistics else ""
    closed = f", {len(unread)} not to be read" if unread else ""
    typer.echo(f"{checked - len(unread)} shards{also} read, {len(damaged)} damaged{closed}: {_place(folder)}")
    if damaged or unread:
        raise typer.Exit(1)


@store.command()
def prune(
    folder: Folder = None,
    model: Annotated[
        str | None, typer.Option(help="Remove all that is kept of this model, by name or revision.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only say what would be removed.")] = False,
) -> None:
    """Remove what is of no use: damaged files, what killed runs left, statistics of streaming studies that nobody has
    gone on with for 30 days; with --model, all of one model. Without --store, also what killed runs left among cached
    images and regions.
    """
    from vlprobe.errors import DataError, StudyError, did_you_mean
    from vlprobe.store import Damaged, Shard

    homes, waiting = list(_homes(folder)), _waiting(folder)
    if model is not None:
        told = [*(home.manifest for home in homes), *(each.about for each in waiting)]
        names = {str(about[key]) for about in told for key in ("model", "revision") if about}
        homes = [home for home in homes if model in (home.manifest.get("model"), home.manifest.get("revision"))]
        waiting = [each for each in waiting if model in (each.about.get("model"), each.about.get("revision"))]
        if not homes and not waiting:
            raise StudyError(f"the store {_place(folder)} holds nothing of model '{model}'{did_you_mean(model, names)}")
    removed: list[Path] = []
    for home in homes:
        removed += home.leftovers
        for path in home.shards:
            if model is None:
                try:
                    Shard(path).verify()
                    continue
                except Damaged:
                    pass
                except DataError as error:
                    typer.echo(error)
                    continue
            removed.append(path)
        if model is not None and home.manifest:
            removed += [home.path / "manifest.json", *sorted(home.path.glob("batch-*.json"))]
    removed += [path for each in waiting for path in _useless(each, model is not None)]
    if folder is None and model is None:
        removed += _left_in_caches()
    size = _size(removed)
    for path in removed:
        typer.echo(str(path))
        if yes:
            path.unlink(missing_ok=True)
    streams = _place(folder) / "streams"
    for place in [*(home.path for home in homes), *(each.path for each in waiting), streams]:
        if yes:
            with suppress(OSError):  # not empty, or another one was first
                place.rmdir()
    said = "removed" if yes else "would be removed; --yes removes them"
    typer.echo(f"{len(removed)} files, {size / 1e9:.3g} GB, {said}")


def _place(folder: Path | None) -> Path:
    from vlprobe.store import default_folder

    return (folder or default_folder()).expanduser()


def _waiting(folder: Path | None) -> list[Kept]:
    from vlprobe.streams.files import kept

    return list(kept(_place(folder)))


def _useless(each: Kept, all_of_it: bool) -> list[Path]:
    """Return the files of a folder of statistics that may go."""
    from vlprobe.aside import leftovers
    from vlprobe.streams.files import ABOUT, damage

    whole = all_of_it or time.time() - _written(each) > ABANDONED
    about = [path for path in (each.path / ABOUT,) if whole and path.exists()]
    left = each.leftovers if whole else leftovers(each.path)
    return [*left, *(path for path in each.files if whole or damage(path)), *about]


def _left_in_caches() -> list[Path]:
    """Return what runs that were killed left unfinished beside the store: images, and regions of images."""
    from vlprobe.aside import leftovers
    from vlprobe.regions.cache import default_folder
    from vlprobe.tasks.spool import folder

    return [path for place in (folder(), default_folder()) for path in leftovers(place, deep=True)]


def _stats(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    """Yield what the system says of files, of those that are still there: studies may run, and remove theirs."""
    for path in paths:
        with suppress(FileNotFoundError):
            yield path.stat()


def _size(paths: Iterable[Path]) -> int:
    return sum(said.st_size for said in _stats(paths))


def _written(each: Kept) -> float:
    """Return when something of a folder of statistics was last written; a folder that has just gone, now."""
    inside = (said.st_mtime for said in _stats((*each.files, *each.leftovers) or (each.path,)))
    return max(inside, default=time.time())


def _age(seconds: float) -> str:
    days, hours = seconds / 86400, seconds / 3600
    return f"{days:.0f} days" if days >= 2 else f"{hours:.0f} hours" if hours >= 2 else f"{seconds / 60:.0f} minutes"


def _homes(folder: Path | None) -> Iterator[Home]:
    from vlprobe.aside import leftovers
    from vlprobe.errors import DataError
    from vlprobe.store import ENDING, MANIFEST, Store

    place = _place(folder)
    if folder is not None and not place.is_dir():
        raise DataError(f"{place} is no folder; name the store of a study, or leave --store out")
    for path in Store(place).homes():
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            known = {"model", "stage", "family", "precision", "dtype", "revision"} <= manifest.keys()
        except (OSError, ValueError, AttributeError):
            known = False
        left, shards = tuple(leftovers(path)), tuple(sorted(path.glob(f"*{ENDING}")))
        if known or shards or left:
            yield Home(path, manifest if known else {}, shards, left)


def _sections(home: Home) -> tuple[dict[str, int], int, list[str]]:
    """Return section -> distinct questions, how many shards are of another version, and why some cannot be read."""
    from vlprobe.errors import DataError
    from vlprobe.store import Outdated, Shard

    found: dict[str, set[str]] = {}
    outdated, unread = 0, list[str]()
    for path in home.shards:
        try:
            shard = Shard(path)
            for section in shard.sections:
                found.setdefault(section, set()).update(shard.questions(section))
        except Outdated:
            outdated += 1
        except DataError as error:
            unread.append(str(error))
    return {section: len(questions) for section, questions in found.items()}, outdated, unread
