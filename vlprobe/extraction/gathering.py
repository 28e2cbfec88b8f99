"""What was pooled batch by batch, put together to sections for the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vlprobe.errors import VlprobeError
from vlprobe.extraction.passes import Forward
from vlprobe.extraction.questions import Heading, Question
from vlprobe.pooling import Pooled
from vlprobe.store import Section


@dataclass
class _Rows:
    """What was pooled for one section so far."""

    order: dict[str, int]
    """Question -> its place."""
    owner: list[np.ndarray] = field(default_factory=list)
    """Of each batch, (row,) place of the question that a row belongs to."""
    unit: list[np.ndarray] = field(default_factory=list)
    """Of each batch, (row,) unit inside its input."""
    layers: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Layer -> of each batch, (row, width)."""
    how: dict[str, str] = field(default_factory=dict)
    """As in `Section`."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Question -> why it has no rows."""


@dataclass(frozen=True)
class Answers:
    """What the rows of one batch are that one section waits for."""

    section: str
    """Its name."""
    owner: np.ndarray
    """(row,) place of the question that a row belongs to."""
    unit: np.ndarray
    """(row,) unit inside its input."""
    example: np.ndarray
    """(row,) place of its input in the batch."""
    layers: Sequence[tuple[str, str]]
    """Layer and pooling of each of the arrays that are to come."""


class Gathered:
    """The rows of some inputs of one model.

    Args:
        model: its name.
        passes: the inputs.
    """

    def __init__(self, model: str, passes: Sequence[Forward]) -> None:
        self.model = model
        names: dict[str, list[str]] = {}
        for each in passes:
            for question in each.questions:
                names.setdefault(question.section, []).append(question.name)
        self.rows = {
            section: _Rows({name: place for place, name in enumerate(sorted(asked))})
            for section, asked in sorted(names.items())
        }

    def skip(self, each: Forward, problem: str) -> None:
        """Say why an input has no rows."""
        for question in each.questions:
            self.rows[question.section].skipped.setdefault(question.name, problem)

    def answers(self, section: str, asked: Sequence[Question | None], layers: Sequence[Pooled]) -> Answers:
        """Return what the rows of a batch are.

        Args:
            section: its name.
            asked: of each input of the batch, the question; None: none.
            layers: what was pooled; nothing, where the section's layers have no such positions.
        """
        if not layers:
            self.rows[section].how[Heading.named(section).side] = ""
            none = np.zeros(0, np.int64)
            return Answers(section, none, none.astype(np.int32), none, [])
        order, rows = self.rows[section].order, layers[0]
        places = np.array([order.get(question.name if question else "", -1) for question in asked])
        named = [(layer.layer, layer.how) for layer in layers]
        return Answers(section, places[rows.example], rows.unit.astype(np.int32), rows.example, named)

    def take(self, batch: Sequence[Forward], answers: Sequence[Answers], arrays: Iterator[np.ndarray]) -> None:
        """Take in the rows of a batch.

        Args:
            batch: its inputs.
            answers: what its rows are.
            arrays: (row, width) of every layer of every section.

        Raises:
            VlprobeError: states that are not finite.
        """
        for said in answers:
            rows = self.rows[said.section]
            rows.owner.append(said.owner)
            rows.unit.append(said.unit)
            for layer, how in said.layers:
                array = next(arrays)
                finite = np.isfinite(array).all(axis=1)
                if not finite.all():
                    example = batch[int(said.example[int(np.argmin(finite))])].example
                    raise VlprobeError(
                        f"{self.model}, layer {layer}: the states of example {example.id} ({example.place}) hold "
                        "NaN or infinite values; the checkpoint is damaged, or the precision too low"
                    )
                rows.layers.setdefault(layer, []).append(array)
                rows.how[layer] = how

    def poolings(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield (section, layer -> pooling, as in `Section`); empty where no input of the section was taken."""
        for name, rows in self.rows.items():
            yield name, rows.how

    def sections(self) -> dict[str, Section]:
        """Return section -> what was gathered.

        Raises:
            VlprobeError: a layer has not as many rows as were asked for.
        """
        return {name: self._section(name, rows) for name, rows in self.rows.items()}

    def _section(self, name: str, rows: _Rows) -> Section:
        owner = np.concatenate([*rows.owner, np.zeros(0, np.int64)]).astype(np.int64)
        unit = np.concatenate([*rows.unit, np.zeros(0, np.int32)]).astype(np.int32)
        layers = {layer: np.concatenate(parts) for layer, parts in rows.layers.items()}
        for layer, array in layers.items():
            if len(array) != len(owner):
                raise VlprobeError(
                    f"{self.model}, layer {layer}: {len(array)} rows where {len(owner)} were asked for; the "
                    "encoder gave this layer, or the roles of its positions, for some batches only"
                )
        order = np.lexsort((unit, owner))
        counts = np.bincount(owner, minlength=len(rows.order))
        bare = [name for name, place in rows.order.items() if not counts[place] and name not in rows.skipped]
        if bare and any(rows.how.values()):
            raise VlprobeError(f"{self.model}: {len(bare)} inputs got no row of section {name}")
        return Section(
            questions=tuple(rows.order),
            start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            unit=unit[order],
            layers={layer: array[order] for layer, array in layers.items()},
            how=rows.how,
            skipped=rows.skipped,
        )
