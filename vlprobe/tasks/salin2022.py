"""The eight probing tasks of Salin et al. (AAAI 2022), read from the authors' released files.

The files are those of https://github.com/ejsalin/vlm-probing: `datasets/*.csv` and `probing_tasks/split/`.
The `_dec` files, whose images were replaced by other rows', are not read: vlprobe draws a mismatch itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vlprobe.errors import BadRow, DataError
from vlprobe.settings import Settings, parse
from vlprobe.tasks.answers import COLOURS, FLOWERS, Answerer, Prepare, colour, count, flower, tags, yes_or_no
from vlprobe.tasks.places import PLACES, find_image, find_place, no_images
from vlprobe.tasks.released import (
    Line,
    Part,
    Rule,
    at_random,
    by_file,
    by_flower_sets,
    find_release,
    listed,
    read_lines,
)
from vlprobe.tasks.rows import BadRowList, BadRows, Draft, Names, grouped, plain
from vlprobe.types import Example, Level, Task, Unit

CITATION = (
    "Salin, Farah, Ayache, Favre: Are Vision-Language Transformers Learning Multimodal Representations? "
    "A Probing Perspective. AAAI 2022, 36(10), 11248-11257."
)


class Options(Settings):
    """What a study may say about any of the eight."""

    name: str
    split: Literal["released", "grouped"] = "released"


class VariantOptions(Options):
    """For the tasks on COCO, whose images differ because UNITER and LXMERT were pretrained on different ones."""

    variant: Literal["uniter", "lxmert"] = "uniter"


class TagOptions(Options):
    """For pos-tagging."""

    tags: str | None = None
    column: Literal["upos", "xpos"] = "xpos"


@dataclass(frozen=True)
class Recipe:
    """How one of the eight tasks is made from its files."""

    level: Level
    """As in `Task.level`."""
    unit: Unit
    """As in `Task.unit`."""
    description: str
    """One line for `vlprobe list tasks`."""
    files: tuple[str, ...]
    """Names of its CSV files, without ending."""
    images: str
    """Key of `PLACES`."""
    rule: Rule
    """Which part a row is in, as released."""
    prepare: Prepare
    """Makes the function from a row to text, words and targets."""
    classes: tuple[str, ...] | None = ("0", "1")
    """Empty: regression. None: those that are found."""
    options: type[Options] = Options
    """What a study may say about it."""


TASKS: dict[str, Recipe] = {
    "pos-tagging": Recipe(
        "language",
        "word",
        "part-of-speech tag of every word of a Flickr30k caption",
        ("flickr_3000",),
        "flickr30k",
        at_random,
        tags,
        None,
        TagOptions,
    ),
    "bigram-shift": Recipe(
        "language",
        "input",
        "were two neighbouring words of the caption swapped?",
        ("flickr_3000_bshift",),
        "flickr30k",
        listed("bshift_test.txt", "test"),
        yes_or_no,
    ),
    "object-count": Recipe(
        "vision",
        "input",
        "how many objects does the COCO image show? (regression)",
        ("coco_{variant}",),
        "coco",
        listed("coco_val.txt", "test"),
        count,
        (),
        VariantOptions,
    ),
    "flowers": Recipe(
        "vision",
        "input",
        "which of 102 kinds of flower does the image show?",
        ("flower_data",),
        "flowers102",
        by_flower_sets,
        flower,
        FLOWERS,
    ),
    "color": Recipe(
        "multimodal",
        "word",
        "which of eight colours was masked in the caption?",
        ("flickr_3000_colors",),
        "flickr30k",
        listed("colors_val_fnames.txt", "test"),
        colour,
        COLOURS,
    ),
    "position": Recipe(
        "multimodal",
        "input",
        "was a spatial word of the caption replaced by its opposite?",
        ("flickr_3000_pos",),
        "flickr30k",
        listed("train_pos_fnames.txt", "train"),
        yes_or_no,
    ),
    "size": Recipe(
        "multimodal",
        "input",
        "was a word of size in the caption replaced by its opposite?",
        ("flickr_3000_size",),
        "flickr30k",
        listed("train_size_fnames.txt", "train"),
        yes_or_no,
    ),
    "adversarial-caption": Recipe(
        "multimodal",
        "input",
        "was the caption altered so that it no longer fits the COCO image?",
        ("coco_altercap_{variant}_train", "coco_altercap_{variant}_val"),
        "coco",
        by_file,
        yes_or_no,
        options=VariantOptions,
    ),
}
"""The tasks by name."""


def load_salin2022(spec: Mapping[str, Any], data: Mapping[str, str], folder: Path, bad_rows: BadRows = "error") -> Task:
    """Return one of the eight tasks.

    Args:
        spec: its name, and options.
        data: places of the data, keys of `PLACES`.
        folder: where relative paths start.
        bad_rows: what to do with rows that cannot be used.

    Raises:
        StudyError: an unknown option.
        DataError: files are missing or cannot be used, or bad rows under `bad_rows="error"`.
    """
    name = spec["name"]
    recipe = TASKS[name]
    options = parse(recipe.options, spec, f"task {name}")
    root = _root(name, data, folder)
    images = find_place(recipe.images, data, folder)
    bad = BadRowList(name, bad_rows)
    release = find_release(root, folder, options.model_dump())
    files = [file.format_map(release.options) for file in recipe.files]
    lines = list(read_lines(release, files, bad))
    rule = recipe.rule if options.split == "released" else at_random
    part, answer = rule(release, lines), recipe.prepare(release, lines)
    names = Names()
    drafts: list[Draft] = []
    for line in lines:
        try:
            drafts += _draft(line, part, answer, partial(_image, images, recipe.images), names)
        except BadRow as problem:
            bad.add(problem)
    skipped = bad.judge({", ".join(f"{file}.csv" for file in files): len(drafts)})
    return Task(
        name=name,
        level=recipe.level,
        unit=recipe.unit,
        classes=_found_classes(name, drafts) if recipe.classes is None else recipe.classes,
        splits=grouped(drafts),
        source=tuple(release.sources),
        citation=CITATION,
        images="" if images else no_images(recipe.images),
        skipped=skipped,
        options=release.options,
    )


def _root(name: str, data: Mapping[str, str], folder: Path) -> Path:
    root = find_place("salin2022", data, folder)
    if root is None:
        raise DataError(
            f"task {name} is read from the authors' files: clone https://github.com/ejsalin/vlm-probing and point "
            f"`data: salin2022` in the study, or {PLACES['salin2022'].variable}, to it"
        )
    return root


def _found_classes(name: str, drafts: Sequence[Draft]) -> tuple[str, ...]:
    found = {target for draft in drafts for target in draft.example.target if isinstance(target, str)}
    if not found:
        raise DataError(
            f"task {name}: not one word of its {len(drafts)} captions has a tag; a file of tags may hold them in its "
            "other column, `column: upos` or `column: xpos`"
        )
    return tuple(sorted(found))


def _draft(line: Line, part: Part, answer: Answerer, image: Callable[[Line], Path | None], names: Names) -> list[Draft]:
    """Return the example of a row, or nothing where the released split does not use it."""
    split = part(line)
    if split is None:
        return []
    answered, path = answer(line), image(line)
    id = f"{line.image}#{line.caption}"
    # The numbers of adversarial captions start again in the second file: train and test both have an image's #0.
    id = names.take(f"{id}#row{line.number}" if id in names else id, line.place)
    example = Example(id, "", answered.text, path, answered.target, answered.words, place=line.place)
    caption = plain(line.original)
    ties = (("image", line.image), *([("caption", caption)] if caption else []))
    return [Draft(split, example, line.image, ties)]


def _image(root: Path | None, key: str, line: Line) -> Path | None:
    if root is None:
        return None
    return find_image(root, PLACES[key].inside, tuple(dict.fromkeys((line.image, line.listed))), line.place)
