"""Own tasks without code: a table, tar shards, a CoNLL-U file, a folder of images, a data set of the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from vlprobe.errors import DataError, StudyError
from vlprobe.settings import Settings, parse, resolve_path
from vlprobe.tasks.conllu import Sentence, read_conllu
from vlprobe.tasks.drafts import Asked, Drafts, Own, Where, good, made_task, question_of
from vlprobe.tasks.folders import folder_draft, folder_images
from vlprobe.tasks.hub import open_dataset
from vlprobe.tasks.rows import BadRowList, BadRows, Draft, Gathered, Names, plain
from vlprobe.tasks.shards import member_columns, shard_files
from vlprobe.tasks.tables import Dialect, read_table
from vlprobe.tasks.tar import read_tar
from vlprobe.tasks.words import joined_words
from vlprobe.types import Example, Source, Task


class TableTask(Asked):
    """`table: FILE`, or one file for every part."""

    table: Any
    images: str | Literal[False] | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    quotes: bool = True


class ShardsTask(Asked):
    """`shards: FILES`, or files for every part."""

    shards: Any


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
    streaming: bool = False


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
    drafts = Drafts(own, bad)
    for part, shown in files.items():
        path = resolve_path(shown, folder)
        table = read_table(path, shown, bad.add, Dialect(own.delimiter, own.quotes))
        folders = None if own.images is False else (images or path.parent,)
        prefix = path.stem if part == "all" else part
        drafts.add(table, Where(_called(shown, part), shown, part, prefix), own.columns, folders)
    task = drafts.task()
    return replace(task, images="no image is read: the task says images: false") if own.images is False else task


def _load_shards(spec: Mapping[str, Any], folder: Path, bad: BadRowList) -> Task:
    own = parse(ShardsTask, spec, f"task {spec['name']}")
    drafts = Drafts(own, bad)
    for part, pattern in _files(own.shards, f"task {own.name}, shards").items():
        for shown, path in shard_files(pattern, folder).items():
            table = read_tar(path, shown, bad.add)
            columns = member_columns(own.columns, table.columns, own.unit, shown)
            prefix = shown if part == "all" else f"{part}/{shown}"
            drafts.add(table, Where(_called(pattern, part), shown, part, prefix), columns, ())
    return drafts.task()


def _load_conllu(spec: Mapping[str, Any], folder: Path, bad: BadRowList) -> Task:
    own = parse(ConlluTask, spec, f"task {spec['name']}")
    if own.level != "language":
        raise StudyError(f"task {own.name}: a CoNLL-U file holds no images, so its level is language, not {own.level}")
    names, gathered = Names(), Gathered()
    sources: list[Source] = []
    for part, shown in _files(own.conllu, f"task {own.name}, conllu").items():
        path = resolve_path(shown, folder)
        sentences, source = read_conllu(path, shown, own.column, bad.add)
        sources.append(source)
        prefix = path.stem if part == "all" else part
        draft = partial(_sentence_draft, part=part, prefix=prefix, names=names)
        gathered.add(_called(shown, part), good(sentences, draft, bad))
    return made_task(own, "word", gathered, sources, bad)


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
    gathered = Gathered()
    gathered.add(own.image_folder, good(images, partial(folder_draft, numbers=own.target == "number"), bad))
    return made_task(own, "input", gathered, [], bad)


def _load_hub(spec: Mapping[str, Any], folder: Path, bad: BadRowList) -> Task:
    own = parse(HubTask, spec, f"task {spec['name']}")
    wanted = own.splits.model_dump(exclude_none=True) if own.splits else None
    dataset = open_dataset(own.dataset, own.config, own.revision, wanted, folder, streaming=own.streaming)
    images = (_folder(own.images, folder, "images"),) if own.images else dataset.folders
    question, gathered = question_of(own, images, Names()), Gathered()
    for part, table in dataset.parts.items():
        shown = f"{own.dataset} ({part})"
        columns = question.columns(own.columns, table.columns, shown, split=part == "all")
        rows = table.rows(columns.values())
        gathered.add(shown, good(rows, partial(question.draft, columns=columns, split=part, prefix=part), bad))
    task = made_task(own, "word" if own.unit == "mask" else own.unit, gathered, [], bad)
    return replace(task, revision=dataset.revision)


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
    "shards": _load_shards,
    "conllu": _load_conllu,
    "image_folder": _load_folder,
    "dataset": _load_hub,
}
"""How an own task is read, by the key that says where it lies."""
