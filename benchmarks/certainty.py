"""How often the intervals hold the truth and the tests cry wolf, by simulation of what probes answer.

Repeat with `python benchmarks/certainty.py > benchmarks/certainty.md` (about ten minutes on one core). The answers
are drawn, so that the truth is known; no probe is trained: `retraining.py` does that.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from vlprobe.comparisons import POWER, Comparison, compare, compare_losses, holm
from vlprobe.digest import generator
from vlprobe.statistics import LEVEL, by_group, interval, ratio, terms
from vlprobe.types import Predictions

GROUPS = (6, 10, 30, 160)
SIZES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "1": lambda rng, groups: np.ones(groups, int),
    "1 to 15": lambda rng, groups: rng.integers(1, 16, groups),
    "50": lambda rng, groups: np.full(groups, 50),
}
"""Rows of a group -> how many."""
ALIKE = (0.0, 0.3, 1.0)
"""Share of the luck that the rows of one group have in common."""


@dataclass(frozen=True)
class World:
    """Where answers are drawn from."""

    groups: int
    """Groups of the test part."""
    size: str
    """Rows of a group: a key of `SIZES`."""
    alike: float
    """Share of the luck that rows of one group have in common."""

    def __str__(self) -> str:
        return f"| {self.groups} | {self.size} | {self.alike:g} |"


def worlds(alike: tuple[float, ...] = ALIKE) -> Iterator[World]:
    """Yield every world once: with one row a group, rows have nothing in common."""
    for groups in GROUPS:
        for size in SIZES:
            yield from (World(groups, size, share) for share in (alike if size != "1" else (0.0,)))


def luck(rng: np.random.Generator, world: World, probes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return (row,) groups and (probe, row) standard normal luck of probes that share half of it."""
    group = np.repeat(np.arange(world.groups), SIZES[world.size](rng, world.groups))
    of_group, of_row = rng.normal(size=(probes + 1, world.groups))[:, group], rng.normal(size=(probes + 1, len(group)))
    both = [np.sqrt(0.5) * (source[0] + source[1:]) for source in (of_group, of_row)]
    return group, np.sqrt(world.alike) * both[0] + np.sqrt(1 - world.alike) * both[1]


def classes(rng: np.random.Generator, world: World, *chances: float) -> list[Predictions]:
    """Return probes that are right with given chances."""
    group, z = luck(rng, world, len(chances))
    y = np.full(len(group), "a")
    return [
        _answers(group, y, np.where(each < ndtri(chance), "a", "b")) for each, chance in zip(z, chances, strict=True)
    ]


def beside_majority(
    rng: np.random.Generator, world: World, shares: tuple[float, ...], chances: tuple[float, float]
) -> list[Predictions]:
    """Return a probe that is right with given chances, about the first class and about any other, and the first class.

    Of shares 0.8 and 0.2, 90 % of the one and 40 % of the other make 80 %, as the majority does; of four equal ones, a
    probe that guesses has 25 % of each right.
    """
    group, z = luck(rng, world)
    y = np.array(list("abcd"))[np.searchsorted(ndtri(np.cumsum(shares[:-1])), z[0])]
    right = rng.random(len(y)) < np.where(y == "a", *chances)
    return [_answers(group, y, np.where(right, y, "wrong")), _answers(group, y, np.full(len(y), "a"))]


def numbers(rng: np.random.Generator, world: World, *errors: float) -> list[Predictions]:
    """Return probes of a number of variance 1, of which they know half, with errors of given variance on top."""
    group, z = luck(rng, world, 1)
    known = z[0]
    y = np.sqrt(0.5) * (known + rng.normal(size=len(group)))
    return [_answers(group, y, np.sqrt(0.5) * known + rng.normal(0, np.sqrt(each), len(y))) for each in errors]


def _answers(group: np.ndarray, y: np.ndarray, predicted: np.ndarray) -> Predictions:
    rows = np.arange(len(y))
    return Predictions(rows.astype(str), np.zeros(len(y), np.int32), group.astype(str), y, predicted)


def percentile(y: np.ndarray, predicted: np.ndarray, group: np.ndarray, metric: str, rng: np.random.Generator) -> tuple:
    """Return the percentile bootstrap interval over groups: what is usual, for comparison."""
    sums = by_group(terms(y, predicted, metric), group)
    draws = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=500) @ sums
    return tuple(np.nanquantile(ratio(draws), [LEVEL / 2, 1 - LEVEL / 2]))


def coverage_of_scores(trials: int) -> None:
    """Print how often the intervals of a score hold it."""
    print(
        "\n## Intervals of a score\n\nHow often the 95 % interval holds the truth, in %: vlprobe's, and in brackets "
        "the percentile bootstrap over groups.\n\n| groups | rows of a group | alike | accuracy 0.5 | 0.8 | 0.95 | "
        "0.99 | R² 0.45 |\n|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    for world in worlds():
        cells = []
        for truth in (0.5, 0.8, 0.95, 0.99, None):
            rng, hits = generator(0, "score", str(world), str(truth)), np.zeros(2)
            metric, aim = ("r2", 0.45) if truth is None else ("accuracy", truth)
            for _ in range(trials):
                (a,) = numbers(rng, world, 0.05) if truth is None else classes(rng, world, truth)
                found = interval(a.target, a.predicted, a.group, metric)
                usual = percentile(a.target, a.predicted, a.group, metric, rng)
                hits += [low <= aim <= high for low, high in (found, usual)]
            cells.append(f"{hits[0] / trials:.1%} ({hits[1] / trials:.0%})".replace("%", ""))
        print(f"{world} {' | '.join(cells)} |", flush=True)


def changes(rng: np.random.Generator, world: World, *chances: float) -> Comparison:
    """Return what is found of two models that are right with given chances: the first with, without, the second."""
    a, lost, b, gone = classes(rng, world, *chances)
    return compare_losses((a, lost), (b, gone), 0)


UNEQUAL, FOUR = (0.8, 0.2), (0.25,) * 4
"""Shares of classes."""
NULLS: dict[str, tuple[Callable[[np.random.Generator, World], Comparison], int]] = {
    "0.5 against 0.5": (lambda rng, world: compare(*classes(rng, world, 0.5, 0.5), 0), 1),
    "0.95 against 0.95": (lambda rng, world: compare(*classes(rng, world, 0.95, 0.95), 0), 1),
    "majority of 4 : 1": (lambda rng, world: compare(*beside_majority(rng, world, UNEQUAL, (0.9, 0.4)), 0), 1),
    "majority of four": (lambda rng, world: compare(*beside_majority(rng, world, FOUR, (0.25, 0.25)), 0), 1),
    "losses 0.9 - 0.6 and 0.8 - 0.5": (lambda rng, world: changes(rng, world, 0.9, 0.6, 0.8, 0.5), 1),
    "R² 0.4 against 0.4": (lambda rng, world: compare(*numbers(rng, world, 0.1, 0.1), int(rng.integers(2**31))), 4),
}
"""What is compared although there is no difference -> what is found, and by how much fewer trials it is afforded."""


def nothing_to_find(trials: int) -> None:
    """Print how often a difference is found, and how often the interval holds 0, where there is none."""
    print(
        "\n## Differences where there is none\n\nHow often p is at most 0.05, in %; in brackets how often the 95 % "
        "interval holds 0. R² has a quarter of the trials.\n"
    )
    print(f"| groups | rows of a group | alike | {' | '.join(NULLS)} |\n|---:|---:|---:|{'---:|' * len(NULLS)}")
    for world in worlds():
        cells = []
        for name, (draw, fewer) in NULLS.items():
            rng, wrong, held = generator(1, name, str(world)), 0, 0
            for _ in range(max(trials // fewer, 1)):
                found = draw(rng, world)
                wrong += found.p <= LEVEL
                held += found.interval[0] <= 0 <= found.interval[1]
            cells.append(
                f"{wrong / (max(trials // fewer, 1)):.1%} ({held / (max(trials // fewer, 1)):.0%})".replace("%", "")
            )
        print(f"{world} {' | '.join(cells)} |", flush=True)


def something_to_find(trials: int) -> None:
    """Print how often a difference as large as `smallest` says is found, and how often the interval holds it."""
    error = 200 * math.sqrt(POWER * (1 - POWER) / trials)
    print(
        "\n## Differences that are there\n\nTwo probes of accuracy 0.7, and two models that lose 0.2 of 0.75, are "
        "compared; the mean of the `smallest` that is named is then made the true difference, of the scores or of the "
        "losses. How often it is found, in % (p at most 0.05; it should be 80), and in brackets how often the interval "
        f"holds it. {trials} trials: a share near 80 % is known to ± {error:.1f} points.\n\n"
        "| groups | rows of a group | alike | smallest difference | found | smallest difference of losses | found |\n"
        "|---:|---:|---:|---:|---:|---:|---:|"
    )
    for world in worlds():
        cells = []
        for start, turn in (
            (np.array([0.7, 0.7]), [0.5, -0.5]),
            (np.array([0.75, 0.55] * 2), [0.25, -0.25, -0.25, 0.25]),
        ):
            rng = generator(2, "power", str(world), str(start))
            draw = changes if len(start) == 4 else lambda *given: compare(*classes(*given), 0)
            named = float(np.mean([draw(rng, world, *start).smallest for _ in range(trials // 4)]))
            chances = start + named * np.array(turn)
            cells.append(f"{named:.3f}")
            if chances.min() < 0.01 or chances.max() > 0.99:
                cells.append("no room")
                continue
            seen = [draw(rng, world, *chances) for _ in range(trials)]
            power = np.mean([found.p <= LEVEL for found in seen])
            held = np.mean([found.interval[0] <= named <= found.interval[1] for found in seen])
            cells.append(f"{100 * power:.1f} ({100 * held:.0f})")
        print(f"{world} {' | '.join(cells)} |", flush=True)


def above_the_majority(trials: int) -> None:
    """Print how often a probe that is better than the majority class is found above it, and how often below."""
    print(
        "\n## Better than the majority class\n\nIn %: how often a probe that is better in truth is found above the "
        "majority class, and in brackets how often below. Of classes 4 : 1 it has 95 and 90 % right "
        f"(0.94 against 0.8), of four equal ones 60 % (0.6 against 0.25). {trials} trials.\n\n"
        "| groups | rows of a group | alike | 4 : 1 | four |\n|---:|---:|---:|---:|---:|"
    )
    for world in worlds():
        cells = []
        for shares, chances in ((UNEQUAL, (0.95, 0.9)), (FOUR, (0.6, 0.6))):
            rng = generator(4, "majority", str(world), str(shares))
            found = [compare(*beside_majority(rng, world, shares, chances), 0) for _ in range(trials)]
            above, below = (
                np.mean([sign * (each.p <= LEVEL) * each.difference > 0 for each in found]) for sign in (1, -1)
            )
            cells.append(f"{100 * above:.1f} ({100 * below:.1f})")
        print(f"{world} {' | '.join(cells)} |", flush=True)


def many_tests(trials: int) -> None:
    """Print how often any of twenty tests of nothing is significant, before and after Holm's correction."""
    rng, before, after = generator(3, "many"), 0, 0
    for _ in range(trials):
        ps = []
        for _ in range(4):  # five probes against one another share their answers, so their tests hang together
            group, z = luck(rng, World(160, "1", 0.0))
            y = np.full(len(group), "a")
            shared = rng.normal(size=(5, len(group)))
            told = [_answers(group, y, np.where(z[0] + each < 0, "a", "b")) for each in shared]
            ps += [compare(told[k], told[(k + 1) % 5], 0).p for k in range(5)]
        before += min(ps) <= LEVEL
        after += min(holm(ps)) <= LEVEL
    print(
        "\n## Twenty tests at once\n\nTwenty comparisons without a difference, five at a time among the same five "
        f"probes, 160 groups: at least one is significant in {before / trials:.1%} of {trials} studies, after Holm's "
        f"correction in {after / trials:.1%}."
    )


def opening(title: str, script: str, trials: int, of: str, more: str) -> str:
    """Return how a page of figures begins: what repeats it, and how exact its shares are."""
    error = 200 * math.sqrt(LEVEL * (1 - LEVEL) / trials)
    return (
        f"# {title}\n\nRepeat with `python benchmarks/{script}.py > benchmarks/{script}.md`.\n\n{trials} {of}, with "
        f"fixed seeds; a share near 5 % or 95 % is known to ± {error:.1f} points (two standard errors). {more}"
    )


def asked(doc: str | None, trials: int) -> int:
    """Return how many trials the command line asks for, or as many as are usual."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--trials", type=int, default=trials)
    return parser.parse_args().trials


def main() -> None:
    """Run all and print a page of Markdown."""
    trials = asked(__doc__, 400)
    print(
        opening(
            "How sure vlprobe is, and how sure it should be",
            "certainty",
            trials,
            "simulated test parts a cell",
            "*Alike* is the share of their luck that the rows of one group have in common: 0, they might as well be "
            "groups of their own; 1, they are all right or all wrong (of numbers: the known part is the same; beside a "
            "majority: they are of one class).",
        ),
        flush=True,
    )
    coverage_of_scores(trials)
    nothing_to_find(trials)
    something_to_find(trials)
    above_the_majority(trials)
    many_tests(trials // 2)


if __name__ == "__main__":
    main()
