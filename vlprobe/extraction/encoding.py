"""A chunk of inputs through a model: batches, states pooled on the device, sections for the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from vlprobe.digest import digest
from vlprobe.encoders.encoder import Profile, profile
from vlprobe.errors import BadRow, VlprobeError
from vlprobe.exact import precision
from vlprobe.extraction.batches import batches
from vlprobe.extraction.budget import Budget
from vlprobe.extraction.passes import Forward, lacking
from vlprobe.extraction.questions import Question
from vlprobe.pooling import Pooled, pool
from vlprobe.store import Section, Store
from vlprobe.types import Hidden, Numbers

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder
    from vlprobe.extraction.jobs import Job

BadRows = Literal["error", "skip"]


def encode_chunk(load: Callable[[], Encoder], job: Job, store: Store, advance: Callable[[int], None]) -> None:
    """Run a model over what the store lacks of one chunk, and write it as one shard.

    Args:
        load: returns the model; not called where the store lacks nothing.
        job: the chunk, and how to run it.
        store: where the shard goes.
        advance: called with the number of inputs done.
    """
    asked = job.asked
    waiting = lacking(job.home, job.passes, store)
    questions = [(question.section, question.name) for each in job.passes for question in each.questions]
    if store.changed(job.home, _shard(waiting), questions):
        store.refresh(job.home)
        waiting = lacking(job.home, job.passes, store)
    if waiting:
        encoder, budget = load(), None
        store.describe(job.home, manifest(encoder, asked.numbers))
        if asked.batch_size is None and encoder.accelerator:
            budget = Budget(encoder, store, job.home)
            budget.settle(waiting, lambda batch: Chunk(encoder, batch, asked.numbers, asked.bad_rows).answer(batch))
        chunk = Chunk(encoder, waiting, asked.numbers, asked.bad_rows, budget)
        store.write(job.home, _shard(waiting), chunk.encode(asked.batch_size, advance))


def _shard(passes: Sequence[Forward]) -> str:
    """Return the address of the shard of some inputs."""
    return digest([[question.section, question.name] for each in passes for question in each.questions])


def manifest(encoder: Encoder | Profile, numbers: Numbers) -> dict[str, object]:
    """Return what a person wants to know of a folder of shards."""
    known = encoder if isinstance(encoder, Profile) else profile(encoder)
    return {
        "model": known.name,
        "family": known.family,
        "stage": known.stage,
        "revision": known.revision,
        "usage": known.usage,
        "precision": numbers.run,
        "dtype": numbers.kept,
        "layers": known.layers,
    }


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
    """Layer -> pooling."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Question -> why it has no rows."""


class Chunk:
    """Some inputs of one model, on their way into one shard.

    Args:
        encoder: the model.
        passes: its inputs.
        numbers: how the model is run and its rows are kept.
        bad_rows: what to do with an input that the model cannot take.
        budget: is told of batches that memory does not hold.
    """

    def __init__(
        self,
        encoder: Encoder,
        passes: Sequence[Forward],
        numbers: Numbers,
        bad_rows: BadRows,
        budget: Budget | None = None,
    ) -> None:
        self.encoder, self.passes, self.numbers, self.bad_rows = encoder, passes, numbers, bad_rows
        self.budget = budget
        names: dict[str, list[str]] = {}
        for each in passes:
            for question in each.questions:
                names.setdefault(question.section, []).append(question.name)
        self.rows = {
            section: _Rows({name: place for place, name in enumerate(sorted(asked))})
            for section, asked in sorted(names.items())
        }

    def encode(self, batch_size: int | None, advance: Callable[[int], None]) -> dict[str, Section]:
        """Return section -> what the model answered.

        Args:
            batch_size: inputs at a time, as for `batches`; halved, for this chunk, where memory does not hold them.
            advance: called with the number of inputs done.

        Raises:
            BadRow: an input cannot be encoded or pooled, under `bad_rows="error"`.
            VlprobeError: a layer gives NaN or infinite states.
        """
        every = list(batches(self.encoder, self.passes, batch_size))
        for batch, later in zip(every, [*every[1:], ()], strict=True):
            self.encoder.ahead([each.example for each in later])
            self._run(batch)
            advance(len(batch))
        return {name: self._section(name, rows) for name, rows in self.rows.items()}

    def _run(self, batch: Sequence[Forward]) -> None:
        """Encode and pool a batch; where it does not fit into memory by halves, where a row is bad one by one."""
        try:
            self.answer(batch)
        except BadRow as error:
            if self.bad_rows == "error":
                error.add_note("with bad_rows: skip in the study, such rows are left out and counted")
                raise
            if len(batch) > 1:
                for each in batch:
                    self._run([each])
                return
            for question in batch[0].questions:
                self.rows[question.section].skipped.setdefault(question.name, error.problem)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise VlprobeError(
                    f"{self.encoder.name}: example {batch[0].example.id} ({batch[0].example.place}) alone does not fit "
                    "into the memory of the device; run it on a larger one, or with `device: cpu`"
                ) from None
            torch.cuda.empty_cache()
            half = len(batch) // 2
            if self.budget is not None:
                self.budget.halve(len(batch) * max(self.encoder.lengths([each.example for each in batch])))
            self._run(batch[:half])
            self._run(batch[half:])

    def answer(self, batch: Sequence[Forward]) -> None:
        """Encode and pool a batch.

        Raises:
            BadRow, VlprobeError: see `encode`.
            OutOfMemoryError: it does not fit into memory.
        """
        with precision(self.numbers.run):
            hidden = self.encoder.encode([each.example for each in batch])
        self._add(batch, hidden)

    def _add(self, batch: Sequence[Forward], hidden: Sequence[Hidden]) -> None:
        """Pool the states of a batch for all that is asked; nothing is kept where a row of it is bad."""
        pooled = [(section, asked, self._pool(batch, asked, hidden)) for section, asked in _rounds(batch)]
        for section, asked, layers in pooled:
            rows = self.rows[section]
            names = [question.name if question else "" for question in asked]
            places = np.array([rows.order.get(name, -1) for name in names])
            rows.owner.append(places[layers[0].example])
            rows.unit.append(layers[0].unit.astype(np.int32))
            for layer in layers:
                rows.layers.setdefault(layer.layer, []).append(self._checked(layer, batch))
                rows.how[layer.layer] = layer.how

    def _pool(
        self, batch: Sequence[Forward], asked: Sequence[Question | None], hidden: Sequence[Hidden]
    ) -> list[Pooled]:
        unit, how, _ = next(question.section for question in asked if question).split(":")
        examples = [
            question.example if question else replace(each.example, target=())
            for question, each in zip(asked, batch, strict=True)
        ]
        layers = pool(hidden, examples, unit, how)  # type: ignore[arg-type]
        if not layers:
            raise VlprobeError(
                f"{self.encoder.name}: no layer has positions that unit '{unit}' could be pooled from by '{how}'; "
                "choose another pooling"
            )
        return layers

    def _checked(self, pooled: Pooled, batch: Sequence[Forward]) -> np.ndarray:
        """Return rows on the host, in the format they are kept in where that holds them.

        Raises:
            VlprobeError: states that are not finite.
        """
        finite = torch.isfinite(pooled.rows).all(dim=1).cpu().numpy()
        if not finite.all():
            example = batch[int(pooled.example[int(np.argmin(finite))])].example
            raise VlprobeError(
                f"{self.encoder.name}, layer {pooled.layer}: the states of example {example.id} ({example.place}) hold "
                "NaN or infinite values; the checkpoint is damaged, or the precision too low"
            )
        if self.numbers.kept == "float16":
            half = pooled.rows.half()
            if bool(torch.isfinite(half).all()):  # else beyond 65504: kept as float32
                return half.cpu().numpy()
        return pooled.rows.cpu().numpy()

    def _section(self, name: str, rows: _Rows) -> Section:
        owner = np.concatenate([*rows.owner, np.zeros(0, np.int64)]).astype(np.int64)
        unit = np.concatenate([*rows.unit, np.zeros(0, np.int32)]).astype(np.int32)
        layers = {layer: np.concatenate(parts) for layer, parts in rows.layers.items()}
        for layer, array in layers.items():
            if len(array) != len(owner):
                raise VlprobeError(
                    f"{self.encoder.name}, layer {layer}: {len(array)} rows where {len(owner)} were asked for; the "
                    "encoder gave this layer, or the roles of its positions, for some batches only"
                )
        order = np.lexsort((unit, owner))
        counts = np.bincount(owner, minlength=len(rows.order))
        bare = [name for name, place in rows.order.items() if not counts[place] and name not in rows.skipped]
        if bare:
            raise VlprobeError(f"{self.encoder.name}: {len(bare)} inputs got no row of section {name}")
        return Section(
            questions=tuple(rows.order),
            start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            unit=unit[order],
            layers={layer: array[order] for layer, array in layers.items()},
            how=rows.how,
            skipped=rows.skipped,
        )


def _rounds(batch: Sequence[Forward]) -> Iterator[tuple[str, list[Question | None]]]:
    """Yield (section, of each input the question that is pooled now or None), until all were pooled.

    Two tasks may ask about different units of one input in the same section.
    """
    waiting: dict[str, list[list[Question]]] = {}
    for place, each in enumerate(batch):
        for question in each.questions:
            waiting.setdefault(question.section, [[] for _ in batch])[place].append(question)
    for section, queues in sorted(waiting.items()):
        for turn in range(max(map(len, queues))):
            yield section, [queue[turn] if turn < len(queue) else None for queue in queues]
