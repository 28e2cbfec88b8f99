"""Linear probes: multinomial logistic regression and ridge, L2 chosen on a validation part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from vlprobe.probes.factor import check, factorise
from vlprobe.probes.logistic import ITERATIONS, Fit, Solver
from vlprobe.probes.ridge import ClosedForm
from vlprobe.probes.threads import one_blas_thread
from vlprobe.statistics import score
from vlprobe.types import SPLITS

PATIENCE = 2
"""The path ends after so many strengths in a row without a smaller validation loss."""
MARGIN = 1e-3
"""A loss is smaller by at least this share: of strengths that are as good as one another, the strongest is taken."""

NAMED = 3
"""Classes that a warning names."""


@dataclass(frozen=True)
class Split:
    """Rows of one part."""

    X: np.ndarray
    """(row, width) float32."""
    y: np.ndarray
    """(row,)."""


@dataclass(frozen=True)
class Probed:
    """A fitted probe's answers on the test part."""

    predicted: np.ndarray
    """(row,) for the test part."""
    validation: float
    """Score on the validation part, of the probe fitted without it, at the chosen strength."""
    l2: float | None
    """The chosen strength; None where nothing was fitted."""
    warnings: tuple[str, ...]
    """Not converged, strength at the end of the path."""


class Linear(Protocol):
    """A fitted linear map."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return (row,) answers for (row, width) features."""

    def loss(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return the mean loss on other rows, without the penalty: what strengths are compared by."""


class L2Path(ABC):
    """Fits of several label sets on the same features along the L2 path, each started from the last of its set.

    Args:
        X: (row, width) standardised features.
        labels: of each set, (row,) targets.
        device: where to work, see `arrays_for`.
    """

    metric: ClassVar[str]
    strengths: ClassVar[tuple[float, ...]]
    """Tried strong to weak: the objective is mean loss + l2/2 |W|², the intercept free, features standardised."""

    @abstractmethod
    def __init__(self, X: np.ndarray, labels: Sequence[np.ndarray], device: str = "cpu") -> None:
        self.warnings: list[list[str]] = [[] for _ in labels]
        """Of each set."""

    @abstractmethod
    def fit(self, l2s: Mapping[int, float]) -> Mapping[int, Linear]:
        """Fit some of the sets, each at its own strength."""

    @abstractmethod
    def start(self, place: int, fitted: Linear) -> None:
        """Take what was found on other rows as the start of a set's next fit, where that helps."""

    @staticmethod
    def doubts(labels: np.ndarray) -> list[str]:
        """Return what is to be said of targets that a probe can be fitted on, but not well."""
        return []


class Logistic(L2Path):
    """L2-regularised multinomial logistic regression, see `logistic.py`; with two classes, one column of weights."""

    metric = "accuracy"
    strengths = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    max_iterations = ITERATIONS

    def __init__(self, X: np.ndarray, labels: Sequence[np.ndarray], device: str = "cpu") -> None:
        super().__init__(X, labels, device)
        self.solver = Solver(factorise(X, device), labels, iterations=self.max_iterations)

    def fit(self, l2s: Mapping[int, float]) -> Mapping[int, Linear]:
        """Fit some of the sets, each at its own strength, and keep what is to be said of those that stopped early."""
        fits = self.solver.fit(l2s)
        for place, fit in fits.items():
            if not fit.met:
                self.warnings[place].append(
                    f"logistic regression at l2 = {fit.l2:g} stopped after {fit.iterations} iterations, an estimated "
                    f"{fit.estimate:.0e} of its objective away from the optimum"
                )
        return fits

    def start(self, place: int, fitted: Linear) -> None:
        """Start a set's next fit from one on other rows."""
        if isinstance(fitted, Fit):
            self.solver.start(place, fitted)

    @staticmethod
    def doubts(labels: np.ndarray) -> list[str]:
        """Name the classes of which there is one example."""
        classes, counts = np.unique(labels, return_counts=True)
        once = [f"'{name}'" for name in classes[counts == 1]]
        more = [] if len(once) <= NAMED else ["..."]
        names = ", ".join([*once[:NAMED], *more])
        what = "class has" if len(once) == 1 else "classes have"
        return [f"{len(once)} {what} one example only in train and validation together: {names}"] if once else []


class Ridge(L2Path):
    """Ridge regression in closed form, see `ridge.py`; on the processor, whatever the device."""

    metric = "r2"
    strengths = (1e3, 1e2, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)

    def __init__(self, X: np.ndarray, labels: Sequence[np.ndarray], device: str = "cpu") -> None:
        super().__init__(X, labels, device)
        self.closed = ClosedForm(X, labels)

    def fit(self, l2s: Mapping[int, float]) -> Mapping[int, Linear]:
        """Return the solutions at one strength each."""
        return {place: self.closed.fit(place, l2) for place, l2 in l2s.items()}

    def start(self, place: int, fitted: Linear) -> None:
        """Do nothing: a closed form starts nowhere."""


def probe(kind: type[L2Path], train: Split, validation: Split, test: Split) -> Probed:
    """Choose L2 on the validation part, fit on train and validation together, answer the test part.

    Args:
        kind: `Logistic` or `Ridge`.
        train: fitted on.
        validation: chooses L2, then fitted on too.
        test: answered; its targets are not read.
    """
    return probe_sets(kind, (train.X, validation.X, test.X), [(train.y, validation.y)])[0]


@one_blas_thread()
def probe_sets(
    kind: type[L2Path],
    X: tuple[np.ndarray, np.ndarray, np.ndarray],
    labels: Sequence[tuple[np.ndarray, np.ndarray]],
    device: str = "cpu",
) -> list[Probed]:
    """Probe several label sets on the same features, as `probe` does each, sharing all that does not depend on labels.

    Features are standardised with the mean and deviation of the rows that are fitted on. The path is walked from
    strong to weak L2, and the strength with the smallest loss on the validation part is taken. The loss, not the
    score: two strengths may answer as many rows rightly by luck, above all strong ones, whose answers hang on the
    intercept and turn when the probe is fitted again with the validation part.

    Args:
        kind: `Logistic` or `Ridge`.
        X: features (row, width) of train, validation and test.
        labels: of each set, those of train and validation.
        device: where to work, see `arrays_for`.

    Raises:
        DataError: a feature that is not finite.
    """
    train, validation, test = X
    for name, part in zip(SPLITS, X, strict=True):
        check(part, f"features of the {name} part")
    scale = Standardise(train)
    path = kind(scale(train), [of_train for of_train, _ in labels], device)
    held_out = scale(validation)
    best = _choose(path, held_out, [of_validation for _, of_validation in labels])
    both = np.concatenate([train, validation])
    scale = Standardise(both)
    final = kind(scale(both), [np.concatenate(pair) for pair in labels], device)
    for place, chosen in best.items():
        final.start(place, chosen.fitted)
    fitted = final.fit({place: chosen.l2 for place, chosen in best.items()})
    asked = scale(test)
    probed = []
    for place, chosen in sorted(best.items()):
        said = [*path.warnings[place], *final.warnings[place], *kind.doubts(np.concatenate(labels[place]))]
        if chosen.l2 == kind.strengths[-1]:
            said.append(f"the chosen l2 = {chosen.l2:g} is the weakest that was tried")
        reached = score(labels[place][1], chosen.fitted.predict(held_out), kind.metric)
        probed.append(Probed(fitted[place].predict(asked), reached, chosen.l2, tuple(said)))
    return probed


@dataclass(frozen=True)
class _Chosen:
    """The best strength of one label set so far."""

    loss: float
    """On the validation part."""
    l2: float
    """The strength."""
    fitted: Linear
    """What it gave."""


def _choose(path: L2Path, held_out: np.ndarray, labels: Sequence[np.ndarray]) -> dict[int, _Chosen]:
    """Walk the path; each set leaves it after `PATIENCE` strengths in a row without a smaller validation loss."""
    best: dict[int, _Chosen] = {}
    since = dict.fromkeys(range(len(labels)), 0)
    for l2 in path.strengths:
        for place, fitted in path.fit(dict.fromkeys(since, l2)).items():
            reached = fitted.loss(held_out, labels[place])
            if place not in best or reached < best[place].loss * (1 - MARGIN):
                best[place], since[place] = _Chosen(reached, l2, fitted), 0
            else:
                since[place] += 1
        since = {place: count for place, count in since.items() if count < PATIENCE}
        if not since:
            break
    return best


class Standardise:
    """Subtract the mean and divide by the deviation of the rows it was made from; a constant column becomes 0."""

    def __init__(self, X: np.ndarray) -> None:
        self.mean = X.mean(axis=0, dtype=np.float64)
        self.inverse = inverse_deviation(self.mean, X.std(axis=0, dtype=np.float64))

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Return (row, width) float32."""
        return ((X - self.mean) * self.inverse).astype(np.float32)


def inverse_deviation(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return (width,) what columns are to be multiplied by for a deviation of 1; 0 where a column is constant."""
    # Rounding leaves a constant column a tiny deviation, which must not be blown up into a feature.
    varies = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-12)
    return np.where(varies, 1 / np.where(varies, deviation, 1), 0)
