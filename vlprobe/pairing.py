"""Conditions: which image stands beside which text, and what of both a model is shown.

The side that carries the target stays where it is; a mismatch moves the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlprobe.digest import generator
from vlprobe.errors import DataError, StudyError, did_you_mean
from vlprobe.types import MASK, Example, Level, Modality, Task

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
    examples = [example for part in task.splits.values() for example in part]
    has = {
        "text": any(example.text is not None for example in examples),
        "image": any(example.image is not None for example in examples),
    }
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
    if task.unit == "word" and "text" not in read and not one_target(task):
        return "its targets are words of a text that the model does not see"
    if not masks and "text" in read and all(MASK in example.text for example in examples if example.text is not None):
        alone = "; condition image-only asks about the image" if "image" in modalities and has["image"] else ""
        return f"every text has a masked word, and the model was trained without a mask token{alone}"
    return ""


def one_target(task: Task) -> bool:
    """Say whether every example is asked one thing only, as about its `[MASK]`: a question on the whole input, too."""
    examples = (example for part in task.splits.values() for example in part)
    return all(sum(target is not None for target in example.target) == 1 for example in examples)


def pair(examples: Sequence[Example], condition: str, level: Level, seed: int, split: str) -> tuple[Example, ...]:
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
    if condition == "matched":
        return tuple(examples)
    if condition == "text-only":
        return tuple(replace(example, image=None, boxes=()) for example in examples)
    if condition == "image-only":
        return tuple(show(example, ("image",)) for example in examples)
    moved = "text" if level == "vision" else "image"
    donors = derange([example.group for example in examples], [getattr(e, moved) for e in examples], seed, split)
    received = [getattr(examples[donor], moved) for donor in donors]
    return tuple(replace(example, **{moved: given}) for example, given in zip(examples, received, strict=True))


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


def derange(groups: Sequence[str], moved: Sequence[object], seed: int, split: str) -> list[int]:
    """Return for every example the index of the example of another group whose image (or text) it receives.

    Groups are permuted so that none stays in place: a random permutation whose fixed points are exchanged with
    groups drawn at random. By symmetry every other group is equally likely to be a group's donor. Two groups that
    hold equal content (the same caption twice) count as one another's fixed points too. Inside the donor group the
    examples are handed out in turn, from a random start.

    Args:
        groups: (example,) group names.
        moved: (example,) what is handed over; equal values are no mismatch.
        seed: draws the permutation.
        split: part of the draw's name.

    Raises:
        DataError: fewer than two groups, or no permutation found without a fixed point.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    names = sorted(members)
    rng = generator(seed, "derangement", split)
    if len(names) < 2:
        raise DataError(f"a mismatch needs at least two groups in the {split} part, and there is {len(names)}")
    content = [frozenset(moved[i] for i in members[name]) for name in names]
    donor = _permutation_without_fixed_points(content, rng, split)
    received = [0] * len(groups)
    for receiver, name in enumerate(names):
        given = members[names[donor[receiver]]]
        start = int(rng.integers(len(given)))
        for k, i in enumerate(members[name]):
            received[i] = given[(start + k) % len(given)]
    return received


def _permutation_without_fixed_points(
    content: Sequence[frozenset[object]], rng: np.random.Generator, split: str
) -> list[int]:
    donor = rng.permutation(len(content)).tolist()

    def clash(receiver: int) -> bool:
        return donor[receiver] == receiver or not content[receiver].isdisjoint(content[donor[receiver]])

    for receiver in range(len(content)):
        if not clash(receiver):
            continue
        for other in rng.permutation(len(content)).tolist():
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
