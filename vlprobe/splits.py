"""Cutting a task into train, validation and test so that nothing leaks from one into another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np

from vlprobe.digest import generator
from vlprobe.errors import BadRow, DataError
from vlprobe.examples import Examples, of_one_origin
from vlprobe.types import SPLITS, Example, Task

TEST_SHARE = 1 / 3
"""Of the examples, where the data bring no test part: as in Salin et al. (2022), 1000 of 3000."""
VALIDATION_SHARE = 0.2
"""Of the train part, where the data bring no validation part: it chooses the L2 strength."""

BadRows = Literal["error", "skip"]


@dataclass(frozen=True)
class Parts:
    """One cut of a task."""

    train: Examples
    """The probe is fitted on these."""
    validation: Examples
    """The L2 strength, and the best layer, are chosen on these."""
    test: Examples
    """Scored once."""
    skipped: tuple[str, ...] = field(default=())
    """One line for every row left out, and why."""

    @cached_property
    def of(self) -> Mapping[str, str]:
        """Example id -> its part."""
        return {example.id: name for name, examples in self.named().items() for example in examples}

    def named(self) -> dict[str, Examples]:
        """Return the parts by name, in the order of `SPLITS`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def cut(task: Task, seed: int, limit: int | None = None, bad_rows: BadRows = "error") -> Parts:
    """Cut a task into train, validation and test, by group.

    A split that the data bring is kept; where the data bring none, whole groups are drawn for the test part.
    The validation part, where missing, is drawn from train the same way.

    Args:
        task: its `splits` hold `train` and `test` (and perhaps `validation`), or `all`.
        seed: draws the groups.
        limit: at most so many examples of each split that the data bring (of `all`: of each part cut from it).
        bad_rows: what to do with train rows whose group is in test too, and with test labels that train lacks:
            raise, or leave them out and say so in `Parts.skipped`.

    Raises:
        BadRow: such rows, under `bad_rows="error"`.
        DataError: an empty part, a part with one class only, too few groups to cut.
    """
    splits = with_test(task, seed)
    for name in ("train", "test"):
        if not splits.get(name):
            raise DataError(f"task {task.name}: its {name} part is empty; a probe needs both train and test examples")
    skipped: list[str] = []
    splits = _without_leaks(task, splits, bad_rows, skipped)
    splits = {name: _first(examples, limit, seed, task.name, name) for name, examples in splits.items()}
    if "validation" not in splits:
        rest, validation = _draw_groups(task, splits["train"], VALIDATION_SHARE, seed, "validation")
        splits |= {"train": rest, "validation": validation}
    if task.classes:
        splits = _without_unseen(task, splits, bad_rows, skipped)
    _refuse_one_class(task, splits)
    return Parts(splits["train"], splits["validation"], splits["test"], tuple(skipped))


def with_test(task: Task, seed: int) -> dict[str, Examples]:
    """Return a task's splits; where the data bring none, whole groups are drawn for the test part.

    Raises:
        DataError: too few groups to draw from.
    """
    splits = of_one_origin(task.splits)
    if "all" not in splits:
        return splits
    rest, test = _draw_groups(task, splits["all"], TEST_SHARE, seed, "test")
    return {"train": rest, "test": test}


def _draw_groups(task: Task, examples: Examples, share: float, seed: int, part: str) -> tuple[Examples, Examples]:
    """Return (rest, drawn): whole groups are drawn at random until `share` of the examples is reached."""
    ranks, sizes = np.unique(examples.ranks, return_counts=True)  # in the order of the groups' names
    if len(ranks) < 2:
        raise DataError(
            f"task {task.name}: a {part} part cannot be cut, since its {len(examples)} examples form "
            f"{len(ranks)} group{'' if len(ranks) == 1 else 's'} (shared images, captions or group column); "
            "at least two groups are needed"
        )
    order = generator(seed, "split", task.name, part).permutation(len(ranks))[:-1]  # at least one group stays
    before = np.concatenate([[0], np.cumsum(sizes[order])[:-1]])
    drawn = np.isin(examples.ranks, ranks[order[before < share * len(examples)]])
    return examples.take(~drawn), examples.take(drawn)


def _first(examples: Examples, limit: int | None, seed: int, task: str, part: str) -> Examples:
    """Return `limit` examples drawn at random, in their old order (a file may be sorted by label)."""
    if limit is None or len(examples) <= limit:
        return examples
    chosen = generator(seed, "limit", task, part).choice(len(examples), size=limit, replace=False)
    return examples.take(np.sort(chosen))


def _without_leaks(
    task: Task, splits: dict[str, Examples], bad_rows: BadRows, skipped: list[str]
) -> dict[str, Examples]:
    """Leave out what shares a group with a later part: test stays whole, train gives way."""
    present = [name for name in SPLITS if name in splits]
    kept = dict(splits)
    for i, name in enumerate(present):
        later = [(other, splits[other]) for other in present[i + 1 :]]
        ranks = splits[name].ranks
        after = np.concatenate([np.zeros(0, np.int32), *(part.ranks for _, part in later)])
        leaking = np.isin(ranks, after)
        leaks = np.flatnonzero(leaking)
        if not len(leaks):
            continue
        order = np.argsort(after, kind="stable")
        last = order[np.searchsorted(after[order], ranks[leaks], side="right") - 1]  # of their group, in later parts
        first = splits[name][int(leaks[0])]
        other, twin = _in_parts(later, int(last[0]))
        reason = f"shares its group '{first.group}' (image, caption or group column)"
        if bad_rows == "error":
            raise BadRow(
                first.place,
                f"this {name} row {reason} with the {other} row {twin.place}; {len(leaks)} of {len(splits[name])} "
                f"{name} rows of task {task.name} leak so. Use another split (`split: grouped` where the task offers "
                "it), or set bad_rows: skip in the study to leave these rows out and count them",
            )
        for example, place in zip(splits[name].take(leaks), last.tolist(), strict=True):
            twin = _in_parts(later, place)[1]
            skipped.append(f"{example.place}: {name} row shares group '{example.group}' with {twin.place}")
        kept[name] = splits[name].take(~leaking)
        if not len(kept[name]):
            raise DataError(f"task {task.name}: every {name} row shares a group with {other}; nothing is left")
    return kept


def _in_parts(parts: Sequence[tuple[str, Examples]], place: int) -> tuple[str, Example]:
    """Return an example by its place in some parts, one after the other, and which part it is in."""
    for name, part in parts:
        if place < len(part):
            return name, part[place]
        place -= len(part)
    raise IndexError(place)


def _without_unseen(
    task: Task, splits: dict[str, Examples], bad_rows: BadRows, skipped: list[str]
) -> dict[str, Examples]:
    """Take out targets that train does not hold: no probe can learn them."""
    seen = {target for example in splits["train"] for target in example.target}
    kept = dict(splits)
    for name in ("validation", "test"):
        whole, altered, left = splits[name], {}, np.ones(len(splits[name]), bool)
        for i, example in enumerate(whole):
            unseen = [target for target in example.target if target not in seen and target is not None]
            if unseen and bad_rows == "error":
                raise BadRow(
                    example.place,
                    f"label '{unseen[0]}' of this {name} row of task {task.name} does not occur in train, so no probe "
                    "can learn it. Use another split or seed, or set bad_rows: skip in the study to leave such units "
                    "out and count them",
                )
            skipped += [f"{example.place}: label '{target}' of this {name} row is not in train" for target in unseen]
            target = tuple(None if value in unseen else value for value in example.target)
            left[i] = any(value is not None for value in target)
            if unseen and left[i]:
                altered[int(whole.rows[i])] = replace(example, target=target)
        kept[name] = replace(whole.take(left), altered={**whole.altered, **altered})
    return kept


def _refuse_one_class(task: Task, splits: Mapping[str, Sequence[Example]]) -> None:
    for name in SPLITS:
        found = (target for example in splits[name] for target in example.target if target is not None)
        values = set(islice(found, 1))
        values |= set(islice((target for target in found if target not in values), 1))
        if not values:
            raise DataError(f"task {task.name}: its {name} part holds no target; add rows or raise --limit")
        if len(values) == 1 and name != "validation":
            what = f"one class only ('{values.pop()}')" if task.classes else f"one value only ({values.pop()})"
            raise DataError(
                f"task {task.name}: its {name} part holds {what}; a probe needs at least two. "
                "Check the split, or raise --limit"
            )
