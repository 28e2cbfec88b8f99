"""How often whole studies find what is not there: labels and features are drawn, probes trained, answers compared.

Repeat with `python benchmarks/retraining.py > benchmarks/retraining.md` (about three minutes on one core). Everything
but the model is vlprobe's own: the cut, the mismatch, the L2 strength, the probe, intervals, tests, pooled seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from certainty import asked, opening

from vlprobe.comparisons import Comparison, compare, pool
from vlprobe.digest import generator
from vlprobe.errors import VlprobeError
from vlprobe.pairing import pair
from vlprobe.probes.linear import Logistic, Ridge, probe_sets
from vlprobe.splits import cut
from vlprobe.statistics import LEVEL, interval
from vlprobe.types import SPLITS, Example, Predictions, Task

FRESH = 1000
"""Rows of new groups that tell what a trained probe is worth."""


@dataclass(frozen=True)
class World:
    """A data set to be drawn: `groups` images with `rows` captions each."""

    groups: int
    """Images; a third of them is tested, a fifth of the others chooses the L2 strength."""
    rows: int
    """Captions of an image, with one target for all: rows of a group are all right or all wrong about it."""
    shares: tuple[float, ...]
    """Of the classes; empty: the target is a normal number."""
    told: tuple[float, float] = (0.0, 0.0)
    """How far apart the classes are in the first feature of the text and of the image, in deviations."""
    width: int = 4
    """Features of the text, and as many of the image."""


@dataclass(frozen=True)
class Told:
    """What one study found."""

    above: Comparison
    """Matched against the majority class."""
    lost: Comparison
    """Matched against mismatched."""
    rest: Comparison
    """Mismatched against the majority class."""
    held: tuple[bool, ...]
    """Of every seed: whether the interval of the matched score holds what the probe is worth."""


def draw(rng: np.random.Generator, world: World, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (row,) targets, (row, width) features of the texts and (group, width) features of the images."""
    if world.shares:
        kind = rng.choice(len(world.shares), p=world.shares, size=groups)
        code, y = kind.astype(float), np.array(list("abcdefgh"))[kind]
    else:
        code = y = rng.normal(size=groups)
    text, image = rng.normal(size=(groups * world.rows, world.width)), rng.normal(size=(groups, world.width))
    text[:, 0] += world.told[0] * np.repeat(code, world.rows)
    image[:, 0] += world.told[1] * code
    return np.repeat(y, world.rows), text.astype(np.float32), image.astype(np.float32)


def task(y: np.ndarray, rows: int) -> Task:
    """Return the task whose example i has text i and image i // rows."""
    told = y.dtype.kind == "U"
    examples = (
        Example(f"{i}", f"g{i // rows}", f"{i}", b"%d" % (i // rows), (str(y[i]) if told else float(y[i]),))
        for i in range(len(y))
    )
    classes = tuple(sorted(set(y.tolist()))) if told else ()
    return Task("drawn", "multimodal", "input", classes, {"all": tuple(examples)})


def study(rng: np.random.Generator, world: World, seeds: Sequence[int]) -> Told:
    """Draw a data set, and run what a study runs on it.

    Raises:
        VlprobeError: a part has one class only.
    """
    y, text, image = draw(rng, world, world.groups)
    asked, kind = task(y, world.rows), Logistic if world.shares else Ridge
    fresh = draw(rng, replace(world, rows=1), FRESH)
    new = np.concatenate([fresh[1], fresh[2]], axis=1)
    answers: dict[str, dict[int, Predictions]] = {"matched": {}, "mismatched": {}, "majority": {}}
    held = []
    for seed in seeds:
        parts = cut(asked, seed).named()
        for condition in ("matched", "mismatched"):
            shown = {name: pair(part, condition, "multimodal", seed, name) for name, part in parts.items()}
            rows = {name: np.array([int(example.id) for example in part]) for name, part in shown.items()}
            seen = [[int(example.image) for example in shown[name]] for name in SPLITS]  # type: ignore[arg-type]
            X = [np.concatenate([text[rows[name]], image[at]], axis=1) for name, at in zip(SPLITS, seen, strict=True)]
            X[2] = np.concatenate([X[2], new])
            train, validation, test = (y[rows[name]] for name in SPLITS)
            predicted = probe_sets(kind, (X[0], X[1], X[2]), [(train, validation)])[0].predicted
            ids = rows["test"].astype(str)
            group = (rows["test"] // world.rows).astype(str)
            given = Predictions(ids, np.zeros(len(ids), np.int32), group, test, predicted[: len(ids)])
            answers[condition][seed] = given
            if condition == "matched":
                low, high = interval(test, given.predicted, group, kind.metric)
                held.append(low <= worth(world, predicted[len(ids) :], fresh[0]) <= high)
        both = np.concatenate([train, validation])
        names, counts = np.unique(both, return_counts=True)
        most = names[counts.argmax()] if world.shares else both.mean()
        answers["majority"][seed] = replace(given, predicted=np.full(len(ids), most))
    matched, mismatched, majority = (pool(each) for each in answers.values())
    draws = int(rng.integers(2**31))
    above, rest = (compare(probe, majority, draws) for probe in (matched, mismatched))
    return Told(above, compare(matched, mismatched, draws, len(test) / len(both)), rest, tuple(held))


def worth(world: World, predicted: np.ndarray, y: np.ndarray) -> float:
    """Return the accuracy or R² of a trained probe on rows like these, from its answers on new ones.

    Where nothing tells the target, no more than the share of each answer is needed, and nothing is left to luck.
    """
    if world.shares:
        if not any(world.told):
            named = np.array(list("abcdefgh"))[: len(world.shares)]
            return float(world.shares @ (predicted == named[:, None]).mean(axis=1))
        return float((predicted == y).mean())
    return -float((predicted**2).mean())


def studies(world: World, seeds: int, trials: int) -> list[Told]:
    """Return what so many studies found; data sets that cannot be cut are drawn again."""
    rng, found = generator(0, "retraining", str(world), str(seeds)), []
    while len(found) < trials:
        try:
            found.append(study(rng, world, range(seeds)))
        except VlprobeError:  # one class only in a part: vlprobe refuses
            continue
    return found


def significant(found: Sequence[Comparison], sign: int = 0) -> float:
    """Return how many in a hundred are significant, either way or with a given sign."""
    return 100 * float(np.mean([each.p <= LEVEL and each.difference * (sign or each.difference) > 0 for each in found]))


NOTHING: dict[str, tuple[World, tuple[int, ...]]] = {
    "two classes": (World(90, 2, (0.5, 0.5)), (1, 3)),
    "few groups": (World(36, 2, (0.5, 0.5)), (1,)),
    "many rows a group": (World(60, 8, (0.5, 0.5)), (1,)),
    "classes 4 : 1": (World(90, 2, (0.8, 0.2)), (1, 3)),
    "four classes": (World(90, 2, (0.25,) * 4), (1,)),
    "wide": (World(90, 2, (0.5, 0.5), width=40), (1,)),
    "numbers": (World(90, 2, ()), (1,)),
}
"""Name -> data whose features say nothing of the target, and how many seeds are tried."""
TEXT = {
    "few groups": World(36, 2, (0.5, 0.5), (1.5, 0.0)),
    "many groups": World(90, 2, (0.5, 0.5), (1.5, 0.0)),
    "wide": World(150, 1, (0.5, 0.5), (1.5, 0.0), 30),
    "numbers": World(90, 2, (), (1.0, 0.0)),
    "wide numbers": World(150, 1, (), (1.0, 0.0), 30),
    "few groups, numbers": World(36, 2, (), (1.0, 0.0)),
}
"""Name -> data that the text alone tells."""
IMAGE = {
    "two classes": World(90, 2, (0.5, 0.5), (0.0, 2.0)),
    "numbers": World(90, 2, (), (0.0, 1.0)),
}
"""Name -> data that the image alone tells."""


def nothing_to_find(trials: int) -> None:
    """Print what is found where features say nothing of the target."""
    print(
        "\n## Features that say nothing of the target\n\nIn %: how often the interval of the score holds what the "
        "probe is worth on new groups (should be 95); how often it is significantly above the majority class (at most "
        "2.5, being one side of 5) and below it (with unequal classes, and of numbers, it is indeed worse: it "
        "sometimes names the rare class, and never just the mean); how often matched differs from mismatched "
        "(at most 5).\n\n"
        "| data | groups x rows | seeds | interval holds | above majority | below | matched differs |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    )
    for name, (world, several) in NOTHING.items():
        for seeds in several:
            found = studies(world, seeds, trials)
            held = 100 * np.mean([hold for each in found for hold in each.held])
            above, below = (significant([each.above for each in found], sign) for sign in (1, -1))
            differs = significant([each.lost for each in found])
            print(
                f"| {name} | {world.groups} x {world.rows} | {seeds} | {held:.1f} | {above:.1f} | {below:.1f} | "
                f"{differs:.1f} |",
                flush=True,
            )


def something_to_find(trials: int) -> None:
    """Print what is found where the text alone, or the image alone, tells the target."""
    print(
        "\n## The text tells, the image does not\n\nMatched and mismatched know the same, so that a difference is one "
        "of training luck. In %: how often it is significant (at most 5), how often its interval holds 0 (95), how "
        "often what is left with a wrong image is found (the more the better); and the deviation of the difference "
        "over studies, as a multiple of what the intervals take it for.\n\n"
        "| data | groups x rows | seeds | matched differs | interval holds 0 | rest found | deviation |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    )
    for name, world in TEXT.items():
        for seeds in (1, 3):
            found = studies(world, seeds, trials)
            lost = [each.lost for each in found]
            held = 100 * np.mean([each.interval[0] <= 0 <= each.interval[1] for each in lost])
            taken = np.mean([(each.interval[1] - each.interval[0]) / 4 for each in lost])
            deviation = np.std([each.difference for each in lost]) / taken
            print(
                f"| {name} | {world.groups} x {world.rows} | {seeds} | {significant(lost):.1f} | {held:.1f} | "
                f"{significant([each.rest for each in found], 1):.1f} | {deviation:.2f} |",
                flush=True,
            )
    print(
        "\n## The image tells, the text does not\n\nIn %: how often a wrong image is found to cost something (the "
        "more the better), and how often anything is found to be left (at most 2.5).\n\n"
        "| data | groups x rows | seeds | loss found | rest found |\n|---|---:|---:|---:|---:|"
    )
    for name, world in IMAGE.items():
        found = studies(world, 1, trials)
        lost, rest = (significant([getattr(each, what) for each in found], 1) for what in ("lost", "rest"))
        print(f"| {name} | {world.groups} x {world.rows} | 1 | {lost:.1f} | {rest:.1f} |", flush=True)


def main() -> None:
    """Run all and print a page of Markdown."""
    trials = asked(__doc__, 250)
    print(
        opening(
            "What whole studies find that is not there",
            "retraining",
            trials,
            "drawn data sets a row",
            "Of each data set, every seed cuts test, train and validation anew, draws a mismatch, chooses the L2 "
            "strength and trains the probes; the answers of all seeds are pooled. All captions of an image have one "
            "target.",
        ),
        flush=True,
    )
    nothing_to_find(trials)
    something_to_find(trials)


if __name__ == "__main__":
    main()
