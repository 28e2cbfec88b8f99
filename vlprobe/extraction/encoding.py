"""A chunk of inputs through a model: batches, states pooled on the device, sections for the store."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from vlprobe.device import free_memory, out_of_memory
from vlprobe.digest import digest
from vlprobe.encoders.encoder import Profile, profile, sides_of
from vlprobe.errors import BadRow, VlprobeError
from vlprobe.exact import precision
from vlprobe.extraction.batches import batches
from vlprobe.extraction.budget import Budget
from vlprobe.extraction.gathering import Answers, Gathered
from vlprobe.extraction.passes import Forward, lacking
from vlprobe.extraction.questions import Heading, Question
from vlprobe.extraction.sending import Sent
from vlprobe.pairing import show
from vlprobe.pooling import SIDES, Pooled, pool
from vlprobe.store import Section, Store
from vlprobe.types import Hidden, Modality, Numbers

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder
    from vlprobe.extraction.jobs import Job

BadRows = Literal["error", "skip"]
NO_MEMORY = "memory does not hold it"


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
            budget.settle(waiting, lambda batch: _answer(encoder, batch, asked.numbers))
        chunk = Chunk(encoder, waiting, asked.numbers, asked.bad_rows, budget)
        store.write(job.home, _shard(waiting), chunk.encode(asked.batch_size, advance))


def _answer(encoder: Encoder, batch: Sequence[Forward], numbers: Numbers) -> None:
    """Run a model on a batch, and wait until all of it was done."""
    chunk = Chunk(encoder, batch, numbers, "error")
    chunk.answer(batch)
    chunk.finish()


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
        self.gathered = Gathered(encoder.name, passes)
        self._underway: deque[tuple[Sequence[Forward], list[Answers], Sent]] = deque()

    def encode(self, batch_size: int | None, advance: Callable[[int], None]) -> dict[str, Section]:
        """Return section -> what the model answered.

        Args:
            batch_size: inputs at a time, as for `batches`; halved, for this chunk, where memory does not hold them.
            advance: called with the number of inputs done.

        Raises:
            BadRow: an input cannot be encoded or pooled, under `bad_rows="error"`.
            VlprobeError: a layer gives NaN or infinite states; no layer has positions that could be pooled from.
        """
        size = batch_size
        every = deque(batches(self.encoder, self.passes, size))
        self.encoder.ahead([each.example for batch in every for each in batch])
        while every:
            batch = every.popleft()
            fit = self._run(batch, every)
            if fit < len(batch):
                size = int(fit)
                every = deque(batches(self.encoder, [each for waiting in every for each in waiting], size))
            advance(len(batch))
        self.finish()
        self._refuse_empty()
        return self.gathered.sections()

    def _run(self, batch: Sequence[Forward], later: Sequence[Sequence[Forward]]) -> float:
        """Encode and pool a batch, by halves where that is not possible; return how many inputs memory can hold.

        Nothing of a batch that failed is left when its halves run: an error holds on to all that was computed until it
        was raised, and is let go first.

        Args:
            batch: some inputs.
            later: the batches to come.
        """
        failed = self._failed(batch)
        if failed is None:
            return math.inf
        if len(batch) == 1:
            if failed is NO_MEMORY:
                raise VlprobeError(
                    f"{self.encoder.name}: example {batch[0].example.id} ({batch[0].example.place}) alone does not fit "
                    "into the memory of the device; run it on a larger one, or with `device: cpu`"
                )
            parts = _parts(batch[0])
            if parts != list(batch):  # a pair, and what is asked of its text or image: the other may be to blame
                return min(self._run([each], later) for each in parts)
            self.gathered.skip(batch[0], failed)
            return math.inf
        if failed is NO_MEMORY:
            free_memory()
            if self.budget is not None:
                self.budget.halve(len(batch) * max(self.encoder.lengths([each.example for each in batch])))
        one, other = batch[: len(batch) // 2], batch[len(batch) // 2 :]
        # Of this batch, what was read is gone, too.
        self.encoder.ahead([each.example for coming in (one, other, *later) for each in coming])
        fit = min(self._run(one, (other, *later)), self._run(other, later))
        return min(fit, len(one)) if failed is NO_MEMORY else fit

    def _failed(self, batch: Sequence[Forward]) -> str | None:
        """Encode and pool a batch; return `NO_MEMORY` where memory does not hold it, or what is wrong with a row.

        Raises:
            BadRow: there is one, under `bad_rows="error"`.
        """
        try:
            self.answer(batch)
        except BadRow as error:
            if self.bad_rows == "error":
                error.add_note("with bad_rows: skip in the study, such rows are left out and counted")
                raise
            return error.problem
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return NO_MEMORY
        return None

    def answer(self, batch: Sequence[Forward]) -> None:
        """Encode and pool a batch, and send off its rows; those of the batch before arrive meanwhile.

        Raises:
            BadRow, VlprobeError: see `encode`.
            OutOfMemoryError: it does not fit into memory.
        """
        with precision(self.numbers.run):
            hidden = self.encoder.encode([each.example for each in batch])
        self._send(batch, hidden)
        del hidden
        while len(self._underway) > 1:
            self._arrive()

    def finish(self) -> None:
        """Wait for all rows.

        Raises:
            VlprobeError: states that are not finite.
        """
        while self._underway:
            self._arrive()

    def _send(self, batch: Sequence[Forward], hidden: Sequence[Hidden]) -> None:
        """Pool the states of a batch for all that is asked; nothing is kept where a row of it is bad."""
        pooled = [(section, asked, self._pool(batch, asked, hidden)) for section, asked in _rounds(batch)]
        sent = Sent([layer.rows for _, _, layers in pooled for layer in layers], self.numbers.kept)
        answers = [self.gathered.answers(section, asked, layers) for section, asked, layers in pooled]
        self._underway.append((batch, answers, sent))

    def _arrive(self) -> None:
        """Take in the rows that were sent off first."""
        batch, answers, sent = self._underway.popleft()
        self.gathered.take(batch, answers, sent.arrived())

    def _pool(
        self, batch: Sequence[Forward], asked: Sequence[Question | None], hidden: Sequence[Hidden]
    ) -> list[Pooled]:
        heading = Heading.named(next(question.section for question in asked if question))
        examples = [
            question.example if question else replace(each.example, target=())
            for question, each in zip(asked, batch, strict=True)
        ]
        layers = pool(
            [layer for layer in hidden if heading.asks(self.encoder, layer.layer)], examples, heading.unit, heading.how
        )
        if not layers and not heading.side:
            raise self._unpooled(heading)
        return layers

    def _refuse_empty(self) -> None:
        """Refuse a pooling by which nothing that is asked here can be pooled, towers included.

        That one stream has no such positions is no error. It may be alone here, the towers having been asked before; of
        inputs that lack what the pooling reads, no tower is asked.
        """
        found: dict[tuple[str, str], list[tuple[Heading, bool]]] = {}
        for name, how in self.gathered.poolings():
            heading = Heading.named(name)
            if how:  # else all were left out
                found.setdefault(heading[:2], []).append((heading, any(how.values())))
        reads = sides_of(self.encoder)
        for inside in found.values():
            every = [
                heading
                for heading, _ in inside
                if len(reads.get(heading.side, ())) == 1 or SIDES.get(heading.how) not in (None, *heading.given)
            ]
            if every and not any(pooled for _, pooled in inside):
                raise self._unpooled(every[0])

    def _unpooled(self, heading: Heading) -> VlprobeError:
        return VlprobeError(
            f"{self.encoder.name}: no layer has positions that unit '{heading.unit}' could be pooled from by "
            f"'{heading.how}'; choose another pooling"
        )


def _parts(each: Forward) -> list[Forward]:
    """Return one input as inputs of their own: what the layers that are asked about read."""
    questions: dict[tuple[Modality, ...], list[Question]] = {}
    for question in each.questions:
        questions.setdefault(Heading.named(question.section).given, []).append(question)
    return [
        replace(each, example=show(each.example, given), questions=tuple(asked)) for given, asked in questions.items()
    ]


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
