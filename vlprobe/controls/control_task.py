"""The control task: random labels for types, which a probe can only learn by heart (Hewitt & Liang 2019, 1909.03368).

A type is what recurs on the surface of a task's units. All units of a type get the same label, drawn once from the
labels' shares; so a probe that knows the type can look its label up, and one that is asked about a property of its own
cannot. Selectivity is the probe's accuracy minus its accuracy on these labels.

    word of a text          its form, in lower case
    text                    its first two words, which in questions say what kind they are
    image                   which of its quarters are brighter than the whole
    region                  the same, of the region
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from vlprobe.controls.pixels import Looks, quarters
from vlprobe.controls.words import WORD, form_of
from vlprobe.digest import generator
from vlprobe.splits import Parts
from vlprobe.types import Example, Modality, Task

FEWEST = 8
"""Types that train and test must have in common: fewer are a classification, and nothing to learn by heart."""
RECURRING = 2 / 3
"""Share of the test rows whose type train must hold: the label of any other cannot be known."""


@dataclass(frozen=True)
class ControlTask:
    """A control task, or why there is none."""

    side: Modality
    """Where the types are: a model that does not see it has nothing to learn by heart."""
    labels: Mapping[tuple[str, int], str]
    """(example id, unit) -> label; empty where there is no control task."""
    reason: str = ""
    """Why there is none."""


def control_task(
    task: Task, parts: Parts, seed: int, looks: Looks, read: Collection[str] = ("text", "image")
) -> ControlTask:
    """Draw a label for every type of a task's units, or say why that would have no meaning.

    Args:
        task: whose side that carries the target also carries the types.
        parts: its cut; labels are drawn from their shares in train and validation, on which the final probe is fitted.
        seed: draws the labels, for each type its own, whatever other types there are.
        looks: of the images.
        read: what the study's models read; there is no control task on what none of them sees.

    Raises:
        BadRow: an image cannot be opened.
    """
    side = _side(task)
    if side not in read:
        return ControlTask(side, {})
    if not task.classes:
        return ControlTask(side, {}, "its targets are numbers, and random labels are drawn for classes")
    if any(getattr(example, side) is None for part in parts.named().values() for example in part):
        return ControlTask(side, {}, f"not every example has {'a text' if side == 'text' else 'an image'} to type")
    kinds: dict[str, int] = {}
    types = {name: _typed(task, side, examples, looks, kinds) for name, examples in parts.named().items()}
    fitted = {*types["train"], *types["validation"]}
    reason = _meaningless(fitted, types["test"])
    if reason:
        return ControlTask(side, {}, reason)
    shares = _shares(chain(parts.train, parts.validation))
    drawn = [_draw(kind, shares, seed, task.name) for kind in kinds]
    if len({drawn[number] for number in fitted}) < 2:
        return ControlTask(side, {}, "all its types drew one label")
    return ControlTask(side, Drawn(parts, types, drawn))


class Drawn(Mapping[tuple[str, int], str]):
    """(example id, unit) -> label: of a unit, its type's number is kept, and the rest made when it is asked for.

    Args:
        parts: of the task.
        types: (unit,) by part, the numbers of the types of all units that are asked about.
        labels: of every type.
    """

    def __init__(self, parts: Parts, types: Mapping[str, Sequence[int]], labels: Sequence[str]) -> None:
        self._parts, self._types, self._labels = parts, types, labels

    @cached_property
    def _made(self) -> dict[tuple[str, int], str]:
        every = ((name, example) for name, examples in self._parts.named().items() for example in examples)
        numbers = {name: iter(types) for name, types in self._types.items()}
        return {
            (example.id, k): self._labels[next(numbers[name])]
            for name, example in every
            for k, target in enumerate(example.target)
            if target is not None
        }

    def __getitem__(self, unit: tuple[str, int]) -> str:
        return self._made[unit]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._made)

    def __len__(self) -> int:
        return sum(map(len, self._types.values()))


def _side(task: Task) -> Modality:
    if task.unit == "region":
        return "image"
    return "image" if task.level == "vision" and task.unit == "input" else "text"


def _typed(
    task: Task, side: Modality, examples: Sequence[Example], looks: Looks, kinds: dict[str, int]
) -> Sequence[int]:
    """Return (unit,) the number of the type of every unit that is asked about; new types are given numbers."""
    forms = task.unit == "word" and not task.facts.one_target
    found = array("i")
    for example in examples:
        for k, target in enumerate(example.target):
            if target is None:
                continue
            if side == "image":
                kind = quarters(looks(example, example.boxes[k] if task.unit == "region" else None))
            else:
                kind = form_of(example, k) if forms else " ".join(WORD.findall((example.text or "").lower())[:2])
            found.append(kinds.setdefault(kind, len(kinds)))
    return found


def _meaningless(fitted: set[int], tested: Sequence[int]) -> str:
    """Return why types are none that a probe could learn by heart; empty where they are."""
    common = fitted & set(tested)
    recurring = sum(kind in fitted for kind in tested) / len(tested)
    if len(common) < FEWEST:
        return f"train and test have {len(common)} types in common, and fewer than {FEWEST} are nothing to memorise"
    if recurring < RECURRING:
        return f"train holds the type of {recurring:.0%} of the test rows only, and {RECURRING:.0%} is the least"
    return ""


def _shares(examples: Iterable[Example]) -> Counter[str]:
    return Counter(str(target) for example in examples for target in example.target if target is not None)


def _draw(kind: str, shares: Counter[str], seed: int, task: str) -> str:
    """Return the label of a type."""
    classes = sorted(shares)
    chances = [shares[name] / shares.total() for name in classes]
    return str(generator(seed, "control-task", task, kind).choice(classes, p=chances))
