"""Conditions: which image stands beside which text, and what of both a model is shown.

The side that carries the target stays where it is; a mismatch moves the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from vlprobe.digest import alike_in_size, file_size, generator, image_digest, image_digests
from vlprobe.errors import DataError, StudyError, did_you_mean
from vlprobe.examples import Examples
from vlprobe.ledger import key_of, keys_of
from vlprobe.types import Example, ImageData, Level, Modality, Task

CONDITIONS = {
    "matched": "every text with its own image",
    "mismatched": "another group's image (vision tasks: another group's text), drawn inside the same split",
    "text-only": "the text, no image",
    "image-only": "the image, no text",
}
"""Simple conditions; `A>B` trains the probe on A and tests it on B."""


def read_condition(name: str) -> tuple[str, str]:
    """Return (trained on, tested on) for a condition's name: `A` or `A>B`.

    Raises:
        StudyError: a name that is not in `CONDITIONS`.
    """
    first, _, second = (part.strip() for part in name.partition(">"))
    for part in filter(None, (first, second)):
        if part not in CONDITIONS:
            raise StudyError(f"unknown condition '{part}'{did_you_mean(part, CONDITIONS)}")
    if not first or (">" in name and not second):
        raise StudyError(f"condition '{name}' names no condition on one side of '>'; write e.g. matched>mismatched")
    return first, second or first


def obstacle(
    condition: str, task: Task, modalities: Sequence[Modality], needs: Sequence[Modality], masks: bool = True
) -> str:
    """Say why a task cannot be put to a model under a simple condition; empty when it can.

    Args:
        condition: one of `CONDITIONS`.
        task: the task.
        modalities: what the model reads.
        needs: what it cannot do without.
        masks: whether it has a token for a masked word.
    """
    has = {"text": task.facts.text, "image": task.facts.image}
    no_image = f"the task has no images{f' ({task.images})' if task.images else ''}"
    wanted: dict[str, tuple[str, ...]] = {"mismatched": ("text", "image"), "text-only": ("text",)}
    wanted |= {"image-only": ("image",)}
    for side in wanted.get(condition, ()):
        if not has[side]:
            return "the task has no text" if side == "text" else no_image
    shown = {"text-only": ("text",), "image-only": ("image",)}.get(condition, ("text", "image"))
    read = [side for side in shown if side in modalities and has[side]]
    if not read:
        return f"the model reads {' and '.join(modalities)} only" + ("" if has["image"] else f"; {no_image}")
    for side in needs:
        if side not in read:
            return f"the model does not run without {side}" + (f"; {no_image}" if side == "image" else "")
    if condition == "mismatched" and task.unit == ("region" if task.level != "vision" else "word"):
        carrier = "image" if task.unit == "region" else "text"
        return f"its targets are {task.unit}s, so the {carrier} must stay, which level '{task.level}' would move"
    if task.unit == "region" and "image" not in read:
        return "its targets are regions of an image that the model does not see"
    if task.unit == "word" and "text" not in read and not task.facts.one_target:
        return "its targets are words of a text that the model does not see"
    if not masks and "text" in read and task.facts.masked:
        alone = "; condition image-only asks about the image" if "image" in modalities and has["image"] else ""
        return f"every text has a masked word, and the model was trained without a mask token{alone}"
    return ""


def pair(examples: Sequence[Example], condition: str, level: Level, seed: int, split: str) -> Examples:
    """Return the examples as a simple condition shows them; ids, groups and targets stay.

    Args:
        examples: all of one split, so that a mismatch never crosses splits.
        condition: one of `CONDITIONS`.
        level: of the task: a mismatch moves the text of a vision task, the image of any other.
        seed: draws the derangement.
        split: name of the split, which has a draw of its own.

    Raises:
        DataError: no derangement exists (one group only, or one image for all).
    """
    shown = Examples.of(examples)
    if condition == "matched":
        return shown
    if condition == "text-only":
        return shown.changed(_without_image)
    if condition == "image-only":
        return shown.changed(partial(show, modalities=("image",)))
    moved: Modality = "text" if level == "vision" else "image"
    donors = derange(shown.ranks, _contents(shown, moved), seed, split)
    return replace(shown, donors=shown.rows[donors], moved=moved)


def _without_image(example: Example) -> Example:
    return replace(example, image=None, boxes=())


def _contents(examples: Examples, side: Modality) -> np.ndarray:
    """Return (example,) numbers, equal where the texts are, or the bytes of the images, whatever files they are in."""
    raw, sizes, embedded = np.empty((len(examples), 16), np.uint8), np.full(len(examples), -1, np.int64), False
    for i, example in enumerate(examples):
        content = getattr(example, side)
        raw[i] = np.frombuffer(_key(content), np.uint8)
        if isinstance(content, Path):
            sizes[i] = file_size(content)
        else:
            embedded = embedded or (side == "image" and content is not None)
    keys, first, which = np.unique(keys_of(raw), return_index=True, return_inverse=True)
    sizes = sizes[first]
    files = np.flatnonzero(sizes >= 0) if embedded else alike_in_size(sizes)
    for place, sha256 in zip(files, image_digests(_file(examples[int(first[at])]) for at in files), strict=True):
        if sha256:
            keys[place] = key_of("image", sha256)
    return np.unique(keys, return_inverse=True)[1][which].astype(np.int32)


def _key(content: str | ImageData | None) -> bytes:
    """Return 16 bytes, of two contents the same where they are equal; of files where their names are."""
    if content is None:
        return key_of()
    if isinstance(content, str):
        return key_of("text", content)
    return key_of("file", str(content)) if isinstance(content, Path) else key_of("image", image_digest(content))


def _file(example: Example) -> Path:
    return Path(str(example.image))


def show(example: Example, modalities: Sequence[Modality]) -> Example:
    """Return an example as a model sees it that reads `modalities` only.

    What a model does not read must not change what it is given, so that it is run once whatever the condition.
    A word task with one target (colour: the [MASK]) is asked of an image model as a question on the whole input,
    as Salin et al. (2022) asked it of ViT and ResNet.
    """
    if "image" not in modalities and example.image is not None:
        example = replace(example, image=None, boxes=())
    if "text" not in modalities and example.text is not None:
        targets = example.target
        if example.words:
            targets = tuple(target for target in targets if target is not None)
        example = replace(example, text=None, words=(), target=targets)
    return example


def derange(
    groups: Sequence[str] | np.ndarray, moved: Sequence[object] | np.ndarray, seed: int, split: str
) -> np.ndarray:
    """Return (example,) for every example the index of the one of another group whose image (or text) it receives.

    Groups are permuted so that none stays in place: a random permutation whose fixed points are exchanged with
    groups drawn at random. By symmetry every other group is equally likely to be a group's donor. Two groups that
    hold equal content (the same caption twice) count as one another's fixed points too. Inside the donor group the
    examples are handed out in turn, from a random start.

    Args:
        groups: (example,) group names, or numbers in their order.
        moved: (example,) what is handed over, or numbers that stand for it; equal values are no mismatch.
        seed: draws the permutation.
        split: part of the draw's name.

    Raises:
        DataError: fewer than two groups, or no permutation found without a fixed point.
    """
    names = _numbered(groups, sorted(set(groups))) if not isinstance(groups, np.ndarray) else groups
    content = _numbered(moved, moved) if not isinstance(moved, np.ndarray) else moved
    _, place = np.unique(names, return_inverse=True)
    members = np.argsort(place, kind="stable").astype(np.int32)
    start = np.concatenate([[0], np.cumsum(np.bincount(place))]) if len(place) else np.zeros(1, np.int64)
    count = len(start) - 1
    rng = generator(seed, "derangement", split)
    if count < 2:
        raise DataError(f"a mismatch needs at least two groups in the {split} part, and there is {count}")
    donor = _permutation_without_fixed_points(_Contents(content[members], start), rng, split)
    received = np.empty(len(place), np.int32)
    for receiver in range(count):
        given = members[start[donor[receiver]] : start[donor[receiver] + 1]]
        first = int(rng.integers(len(given)))
        own = members[start[receiver] : start[receiver + 1]]
        received[own] = given[(first + np.arange(len(own))) % len(given)]
    return received


def _numbered(values: Sequence[object], order: Sequence[object]) -> np.ndarray:
    """Return (value,) the place where each is first in an order of them."""
    place: dict[object, int] = {}
    for value in order:
        place.setdefault(value, len(place))
    return np.array([place[value] for value in values], np.int64)


class _Contents:
    """What the members of every group hold.

    Args:
        content: (example,) numbers, group by group.
        start: (group + 1,) where each begins.
    """

    def __init__(self, content: np.ndarray, start: np.ndarray) -> None:
        self._content, self._start = content, start

    def __len__(self) -> int:
        return len(self._start) - 1

    def meet(self, one: int, other: int) -> bool:
        """Say whether two groups hold anything alike."""
        a, b = (self._content[self._start[group] : self._start[group + 1]] for group in (one, other))
        return bool(a[0] == b[0]) if len(a) == len(b) == 1 else not set(a.tolist()).isdisjoint(b.tolist())


def _permutation_without_fixed_points(content: _Contents, rng: np.random.Generator, split: str) -> np.ndarray:
    donor = rng.permutation(len(content))

    def clash(receiver: int) -> bool:
        return donor[receiver] == receiver or content.meet(receiver, donor[receiver])

    for receiver in range(len(content)):
        if not clash(receiver):
            continue
        for other in rng.permutation(len(content)):
            donor[receiver], donor[other] = donor[other], donor[receiver]
            if other != receiver and not clash(receiver) and not clash(other):
                break
            donor[receiver], donor[other] = donor[other], donor[receiver]
        else:
            raise DataError(
                f"the {split} part cannot be mismatched: its groups hold the same image or text too often; "
                "drop duplicates or give a coarser group column"
            )
    return donor
