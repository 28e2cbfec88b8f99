"""Two runs, B after A: what each model's score became, item by item where both answered the same items."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vlprobe.comparisons import Comparison, compare, compare_losses, holm, pool, shared
from vlprobe.findings.answers import Answer
from vlprobe.findings.apart import Alone, Apart, alone, apart
from vlprobe.findings.compared import same_input
from vlprobe.findings.finding import plain
from vlprobe.findings.folder import StudyFolder
from vlprobe.statistics import LEVEL
from vlprobe.types import Predictions

NO_ANSWER = "no answer differs"
SAME_INPUT = "the model does not see what the condition changes: the same as matched, in both runs"


@dataclass(frozen=True)
class Change:
    """One number of run A beside the same of run B: a score, or what a wrong image (vision tasks: text) costs."""

    kind: str
    """`score`, or `loss`: matched minus mismatched."""
    task: str
    """Task name."""
    model: str
    """Model name."""
    stages: tuple[str, str]
    """The checkpoint's stage in A and in B."""
    condition: str
    """As the study names it; of a loss, `mismatched`."""
    metric: str
    """`accuracy` or `r2`; of A where they differ."""
    layers: tuple[str, str]
    """Chosen on the validation part of each run."""
    scores: tuple[float, float]
    """Of A and of B: on the items that both answered, all common seeds together; where items are not the same, each
    run's own, the mean over its seeds."""
    intervals: tuple[tuple[float, float], tuple[float, float]]
    """95 %, of each run's own score, holding those of all its seeds; NaN for a loss."""
    verdicts: tuple[str, str]
    """Where the target is taken from in A and in B, for scores under `matched`; else empty."""
    n: tuple[int, int]
    """Items that each run answered, its seeds counted."""
    untested: str
    """Why there is no test: the items are not the same, or no answer differs; empty where there is one."""
    compared: int
    """Items that are compared one by one; 0 where they are not the same."""
    groups: int
    """Groups that they belong to."""
    seeds: tuple[int, ...]
    """Seeds that are compared; of runs with one seed each, that of A."""
    differing: int
    """Items that the two answered differently."""
    difference: float
    """B minus A; NaN where items are not the same."""
    interval: tuple[float, float]
    """95 % interval of the difference over groups, not corrected."""
    p: float
    """Two-sided, of the exchange test; NaN where nothing is tested."""
    corrected: float
    """p, corrected by Holm's method for all tests between the two runs."""
    smallest: float
    """The smallest difference that this test part would have shown four times out of five, before correction."""
    significant: bool
    """corrected <= 0.05."""


@dataclass(frozen=True)
class TwoRuns:
    """What became of the numbers of run A in run B."""

    apart: tuple[Apart, ...]
    """What they were made of that differs."""
    alone: tuple[Alone, ...]
    """What only one of them has a result of."""
    changes: tuple[Change, ...]
    """All that both have, task by task, model by model, in the order of A."""

    @property
    def tests(self) -> int:
        """How many tests p is corrected for."""
        return sum(not change.untested for change in self.changes)

    def plain(self) -> dict[str, Any]:
        """Return what JSON can hold; null where a number is not one."""
        content = {"tests": self.tests} | asdict(self)
        return {name: [plain(each) for each in value] if isinstance(value, tuple) else value
                for name, value in content.items()}  # fmt: skip


def compare_runs(a: StudyFolder, b: StudyFolder) -> TwoRuns:
    """Compare the linear probe of two runs, at the layer that each chose on its validation part.

    Models and tasks are known by their names, as the studies call them. Items are the same where example, unit, target
    and group are; then the two answers to each are compared. Where only some are in both, those are compared. Two runs
    with one seed each are compared whatever the seed, on the items that both tested.

    Args:
        a: the earlier run.
        b: the later one.

    Raises:
        DataError: predictions are missing or damaged.
    """
    places = [{each["name"]: i for i, each in enumerate(a.described[kind])} for kind in ("tasks", "models")]
    conditions = {name: i for i, name in enumerate(a.described["study"]["conditions"])}
    both = [(mine, other) for mine in a.answers for other in b.answers if _named(mine) == _named(other)]
    both.sort(key=lambda pair: (places[0][pair[0].task], places[1][pair[0].model], conditions[pair[0].condition]))
    made: list[Change] = []
    pairs = {_named(mine): (mine, other) for mine, other in both}
    verdicts = [{(each.task, each.model): each.verdict for each in run.findings() if each.verdict} for run in (a, b)]
    for mine, other in both:
        judged = (mine.task, mine.model) if mine.condition == "matched" else ("", "")
        matched = pairs.get((mine.task, mine.model, "matched"))
        blind = matched and mine.condition != "matched" and _blind(matched, (mine, other))
        change = (
            replace(_side_by_side((a, b), mine, other), untested=SAME_INPUT) if blind else _score((a, b), mine, other)
        )
        made.append(replace(change, verdicts=(verdicts[0].get(judged, ""), verdicts[1].get(judged, ""))))
        made += _losses((a, b), pairs, mine)
    return TwoRuns(
        tuple(apart(a.described, b.described)),
        tuple(alone((a.described, a.answers), (b.described, b.answers))),
        tuple(_corrected(made)),
    )


def _blind(matched: tuple[Answer, Answer], under: tuple[Answer, Answer]) -> bool:
    """Say whether a condition gives the model of both runs the very inputs that it has when matched."""
    return all(same_input(own, other) for own, other in zip(matched, under, strict=True))


def _named(answer: Answer) -> tuple[str, str, str]:
    return answer.task, answer.model, answer.condition


def _corrected(made: Sequence[Change]) -> Iterator[Change]:
    """Yield the changes with p corrected. Where no answer differs, no exchange could show anything: such are no tests.

    Which those are is known before the signs of the others are (Tarone 1990), so that the level is kept.
    """
    corrected = iter(holm([change.p for change in made if not change.untested]))
    for change in made:
        p = math.nan if change.untested else next(corrected)
        yield replace(change, corrected=p, significant=p <= LEVEL)


_Runs = tuple[StudyFolder, StudyFolder]


def _score(runs: _Runs, mine: Answer, other: Answer) -> Change:
    """Return what a score became."""
    bare = _side_by_side(runs, mine, other)
    if mine.metric != other.metric:
        return replace(bare, untested=f"A is scored by {mine.metric}, B by {other.metric}")
    same, seeds, why = _same_items(runs, ((mine, other),))
    if why:
        return replace(bare, untested=why)
    first, second = same
    return _paired(bare, compare(second, first, seeds[0], max(mine.trained, other.trained)), seeds, _differing(same))


def _side_by_side(runs: _Runs, mine: Answer, other: Answer) -> Change:
    """Return two runs' own scores, not compared."""
    own = [_own(run, answer) for run, answer in zip(runs, (mine, other), strict=True)]
    nothing = (math.nan, math.nan)
    return Change(
        kind="score",
        task=mine.task,
        model=mine.model,
        stages=(mine.stage, other.stage),
        condition=mine.condition,
        metric=mine.metric,
        layers=(mine.layer, other.layer),
        scores=(own[0][0], own[1][0]),
        intervals=(own[0][1], own[1][1]),
        verdicts=("", ""),
        n=(own[0][2], own[1][2]),
        untested="",
        compared=0,
        groups=0,
        seeds=(),
        differing=0,
        difference=math.nan,
        interval=nothing,
        p=math.nan,
        corrected=math.nan,
        smallest=math.nan,
        significant=False,
    )


def _paired(bare: Change, found: Comparison, seeds: Sequence[int], differing: int) -> Change:
    return replace(
        bare,
        scores=(found.scores[1], found.scores[0]),
        compared=found.n,
        groups=found.groups,
        seeds=tuple(seeds),
        differing=differing,
        difference=found.difference,
        interval=found.interval,
        p=found.p if differing else math.nan,
        untested="" if differing else NO_ANSWER,
        smallest=found.smallest,
    )


def _losses(runs: _Runs, pairs: Mapping[tuple[str, str, str], tuple[Answer, Answer]], own: Answer) -> Iterator[Change]:
    """Yield what became of what a wrong image (text) costs, behind the score under `mismatched`."""
    matched, wrong = (pairs.get((own.task, own.model, name)) for name in ("matched", "mismatched"))
    if own.condition != "mismatched" or not matched or not wrong:
        return
    if any(same_input(right, other) for right, other in zip(matched, wrong, strict=True)):
        return  # one of the two does not see what a mismatch replaces: nothing can be lost
    same, seeds, why = _same_items(runs, (matched, wrong))
    if why or matched[0].metric != matched[1].metric:
        return  # the scores beside it say why
    a, b, wrong_a, wrong_b = same
    trained = max(answer.trained for answer in (*matched, *wrong))
    found = compare_losses((b, wrong_b), (a, wrong_a), seeds[0], trained)
    loss = replace(_side_by_side(runs, *wrong), kind="loss", intervals=((math.nan, math.nan), (math.nan, math.nan)))
    yield _paired(loss, found, seeds, _differing((a, b)) + _differing((wrong_a, wrong_b)))


def _differing(same: Sequence[Predictions]) -> int:
    return int((same[0].predicted != same[1].predicted).sum())


def _same_items(runs: _Runs, pairs: Sequence[tuple[Answer, Answer]]) -> tuple[list[Predictions], tuple[int, ...], str]:
    """Return what two runs answered on the items of both, pair after pair, the seeds, and why there are none.

    Args:
        runs: A and B.
        pairs: answers of A and of B, under one condition or two.
    """
    keys = [answer.keys[""] for pair in pairs for answer in pair]
    common = sorted(set.intersection(*(set(each) for each in keys)))
    if not common and all(len(each) == 1 for each in keys):
        seeds = [next(iter(each)) for each in keys]  # one seed each, and not the same one
        chosen = [{seeds[0]: each[seed]} for each, seed in zip(keys, seeds, strict=True)]
        common = seeds[:1]
    else:
        chosen = [{seed: each[seed] for seed in common} for each in keys]
    if not common:
        return [], (), f"no seed in common: {_list(keys[0])} in A, {_list(keys[1])} in B"
    read = [
        pool({seed: runs[number % 2].results.predictions(key) for seed, key in each.items()})
        for number, each in enumerate(chosen)
    ]
    same = shared(*read)
    if not len(same[0].id):
        return [], (), "no item is in both"
    why = _clash(same)
    return ([] if why else list(same)), tuple(common), why


def _list(numbers: Mapping[int, str]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _clash(same: Sequence[Predictions]) -> str:
    """Return why items of the same names are not the same items; empty where they are."""
    first = same[0]
    for other in same[1:]:
        for name in ("target", "group"):
            left, right = getattr(first, name), getattr(other, name)
            unlike = np.flatnonzero(left != right) if left.dtype.kind == right.dtype.kind else np.arange(len(left))
            if len(unlike):
                i = unlike[0]
                example = str(first.id[i]).rpartition("\x1f")[2]
                return (
                    f"not the same data: {len(unlike)} of {len(left)} items have another {name}, {example} is one "
                    f"('{left[i]}' in A, '{right[i]}' in B)"
                )
    return ""


def _own(run: StudyFolder, answer: Answer) -> tuple[float, tuple[float, float], int]:
    """Return a run's own score, the mean over seeds, what holds all seeds' intervals, and how many items there are."""
    results = [run.results.known[key] for _, key in sorted(answer.keys[""].items())]
    low, high = min(each.interval[0] for each in results), max(each.interval[1] for each in results)
    return float(np.mean([each.score for each in results])), (low, high), sum(each.n_test for each in results)
