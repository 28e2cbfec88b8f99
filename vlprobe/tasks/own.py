"""Own tasks without code: a table, a CoNLL-U file, a folder of images, a data set of the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from vlprobe.errors import BadRow, DataError, StudyError
from vlprobe.settings import Settings, parse, resolve_path
from vlprobe.tasks.columns import AskedUnit, Columns, Question
from vlprobe.tasks.conllu import Sentence, read_conllu
from vlprobe.tasks.folders import folder_draft, folder_images
from vlprobe.tasks.hub import open_dataset
from vlprobe.tasks.rows import BadRowList, BadRows, Draft, Names, grouped, plain
from vlprobe.tasks.tables import Dialect, read_table
from vlprobe.tasks.words import joined_words
from vlprobe.types import Example, Level, Source, Task, Unit

Item = TypeVar("Item")


class Own(Settings):
    """What every own task says."""

    name: str
    level: Level
    citation: str = ""
    licence: str = ""
    revision: str = ""


class Asked(Own):
    """What a task of rows says about its columns."""

    unit: AskedUnit = "input"
    target: Literal["classes", "number"] = "classes"
    columns: Columns = Columns()
    box_unit: Literal["fraction", "pixel"] = "fraction"


class TableTask(Asked):
    """`table: FILE`, or one file for every part."""

    table: Any
    images: str | Literal[False] | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    quotes: bool = True


class ConlluTask(Own):
    """`conllu: FILE`, or one file for every part."""

    conllu: Any
    column: Literal["upos", "xpos"] = "upos"


class FolderTask(Own):
    """`image_folder: DIR`."""

    image_folder: str
    target: Literal["classes", "number"] = "classes"


class Parts(Settings):
    """A file, or a split of a data set on the hub, for every part."""

    train: str
    test: str
    validation: str | None = None


class HubTask(Asked):
    """`dataset: HUB-ID`."""

    dataset: str
    config: str | None = None
    images: str | None = None
    splits: Parts | None = None


def load_own(spec: Mapping[str, Any], kinds: Sequence[str], folder: Path, bad_rows: BadRows) -> Task:
    """Return an own task.

    Args:
        spec: what the study says.
        kinds: which keys of `KINDS` it has.
        folder: where relative paths start.
        bad_rows: what to do with rows that cannot be used.

    Raises:
        StudyError: unknown, missing or contradicting keys.
        DataError: files that cannot be used, or bad rows under `bad_rows="error"`.
    """
    if len(kinds) > 1:
        raise StudyError(f"task {spec['name']}: has the keys {' and '.join(kinds)}; keep one of them")
    return KINDS[kinds[0]](spec, folder, BadRowList(spec["name"], bad_rows))


def _load_table(spec: Mapping[str, Any], folder: Path, bad: BadRowList) -> Task:
    own = parse(TableTask, spec, f"task {spec['name']}")
    files = _files(own.table, f"task {own.name}, table")
    images = _folder(own.images, folder, "images") if own.images else None
    names = Names()
    drafts: dict[str, list[Draft]] = {}
    sources: list[Source] = []
    for part, shown in files.items():
        path = resolve_path(shown, folder)
        table = read_table(path, shown, bad.add, Dialect(own.delimiter, own.quotes))
        sources.append(table.source)
        question = _question(own, None if own.images is False else (images or path.parent,), names)
        drafts[_called(shown, part)] = []
        if table.columns:  # not one line of a JSONL file can be read: `_task` says so
            columns = question.columns(own.columns, table.columns, shown, split=part == "all")
            prefix = path.stem if part == "all" else part
            draft = partial(question.draft, columns=columns, split=part, prefix=prefix)
            drafts[_called(shown, part)] = _good(table.rows, draft, bad)
    task = _task(own, "word" if own.unit == "mask" else own.unit, drafts, sources, bad)
    return replace(task, images="no image is read: the task says images: false") if own.images is False else task


def _load_conllu(spec: Mapping[str, Any], folder: Path, bad: BadRowList) -> Task:
    own = parse(ConlluTask, spec, f"task {spec['name']}")
    if own.level != "language":
        raise StudyError(f"task {own.name}: a CoNLL-U file holds no images, so its level is language, not {own.level}")
    names = Names()
    drafts: dict[str, list[Draft]] = {}
    sources: list[Source] = []
    for part, shown in _files(own.conllu, f"task {own.name}, conllu").items():
        path = resolve_path(shown, folder)
        sentences, source = read_conllu(path, shown, own.column, bad.add)
        sources.append(source)
        prefix = path.stem if part == "all" else part
        draft = partial(_sentence_draft, part=part, prefix=prefix, names=names)
        drafts[_called(shown, part)] = _good(sentences, draft, bad)
    return _task(own, "word", drafts, sources, bad)


def _sentence_draft(sentence: Sentence, part: str, prefix: str, names: Names) -> Draft:
    text, words = joined_words(sentence.forms)
    name = names.take(sentence.id or f"{prefix}#{sentence.number}", sentence.place)
    example = Example(name, "", text, None, sentence.tags, words, place=sentence.place)
    return Draft(part, example, name, (("text", plain(text)),))


def _load_folder(spec: Mapping[str, Any], folder: Path, bad: BadRowList) -> Task:
    own = parse(FolderTask, spec, f"task {spec['name']}")
    if own.level != "vision":
        raise StudyError(f"task {own.name}: a folder of images holds no text, so its level is vision, not {own.level}")
    root = _folder(own.image_folder, folder, "image_folder")
    images = folder_images(root, own.image_folder, bad.add)
    drafts = {own.image_folder: _good(images, partial(folder_draft, numbers=own.target == "number"), bad)}
    return _task(own, "input", drafts, [], bad)


def _load_hub(spec: Mapping[str, Any], folder: Path, bad: BadRowList) -> Task:
    own = parse(HubTask, spec, f"task {spec['name']}")
    wanted = own.splits.model_dump(exclude_none=True) if own.splits else None
    dataset = open_dataset(own.dataset, own.config, own.revision, wanted, folder)
    images = (_folder(own.images, folder, "images"),) if own.images else dataset.folders
    question = _question(own, images, Names())
    drafts: dict[str, list[Draft]] = {}
    for part, table in dataset.parts.items():
        shown = f"{own.dataset} ({part})"
        columns = question.columns(own.columns, table.columns, shown, split=part == "all")
        rows = table.rows(columns.values())
        drafts[shown] = _good(rows, partial(question.draft, columns=columns, split=part, prefix=part), bad)
    task = _task(own, "word" if own.unit == "mask" else own.unit, drafts, [], bad)
    return replace(task, revision=dataset.revision)


def _good(items: Iterable[Item], draft: Callable[[Item], Draft], bad: BadRowList) -> list[Draft]:
    """Return the drafts of the items that can be used, noting the others."""
    drafts = []
    for item in items:
        try:
            drafts.append(draft(item))
        except BadRow as problem:
            bad.add(problem)
    return drafts


def _task(
    own: Own, unit: Unit, files: Mapping[str, Sequence[Draft]], sources: Sequence[Source], bad: BadRowList
) -> Task:
    """Return the task made of the drafts of every file, once its bad rows have been judged."""
    skipped = bad.judge({file: len(drafts) for file, drafts in files.items()})
    drafts = [draft for drafts in files.values() for draft in drafts]
    targets = {target for draft in drafts for target in draft.example.target if target is not None}
    if not targets:
        raise DataError(f"task {own.name}: not one of its {len(drafts)} examples has a label")
    return Task(
        name=own.name,
        level=own.level,
        unit=unit,
        classes=tuple(sorted(target for target in targets if isinstance(target, str))),
        splits=grouped(drafts),
        source=tuple(sources),
        revision=own.revision,
        licence=own.licence,
        citation=own.citation,
        skipped=skipped,
        options=own.model_dump(exclude_none=True),
    )


def _question(own: Asked, images: tuple[Path, ...] | None, names: Names) -> Question:
    if own.box_unit == "pixel" and own.unit != "region":
        raise StudyError(f"task {own.name}: box_unit is for unit region, and the unit is {own.unit}; remove it")
    if own.box_unit == "pixel" and images is None:
        raise StudyError(f"task {own.name}: boxes in pixels need the images' sizes; with images: false give fractions")
    return Question(own.level, own.unit, own.target == "number", own.box_unit == "pixel", images, names)


def _files(value: Any, place: str) -> dict[str, str]:
    """Return file by part; a single file is the part `all`."""
    if isinstance(value, str):
        return {"all": value}
    if not isinstance(value, Mapping):
        raise StudyError(f"{place}: expected a file, or {{train: FILE, validation: FILE, test: FILE}}, found {value!r}")
    return parse(Parts, value, place).model_dump(exclude_none=True)


def _called(shown: str, part: str) -> str:
    """Return what messages call a file, of which a study may give one and the same for two parts."""
    return shown if part == "all" else f"{shown} ({part})"


def _folder(said: str, folder: Path, key: str) -> Path:
    path = resolve_path(said, folder)
    if not path.is_dir():
        raise DataError(f"{key}: {said} is not a folder ({path})")
    return path


KINDS: dict[str, Callable[[Mapping[str, Any], Path, BadRowList], Task]] = {
    "table": _load_table,
    "conllu": _load_conllu,
    "image_folder": _load_folder,
    "dataset": _load_hub,
}
"""How an own task is read, by the key that says where it lies."""
