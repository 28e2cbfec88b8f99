"""Examples -> Features: questions named by content, batches through a model, rows pooled at once and kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlprobe.errors import BadRow, StudyError
from vlprobe.extraction.asking import ImageDigests, Put, addressed, put, reads, request
from vlprobe.extraction.jobs import Asked, jobs
from vlprobe.extraction.passes import Forward, Passes, Rounds, forwards, lacking, layers_of, missing
from vlprobe.extraction.questions import Extraction
from vlprobe.extraction.reading import Reader, features
from vlprobe.ledger import KEY, keys_of
from vlprobe.pairing import obstacle, pair
from vlprobe.pooling import POOLINGS, check_pooling
from vlprobe.store import Store
from vlprobe.types import FULL, Features, Numbers, Task

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder, Profile
    from vlprobe.extraction.encoding import BadRows

__all__ = [
    "Extraction",
    "Forward",
    "ImageDigests",
    "Passes",
    "Put",
    "Reader",
    "Rounds",
    "addressed",
    "compute",
    "extract",
    "features",
    "forwards",
    "lacking",
    "layers_of",
    "left_out",
    "missing",
    "put",
    "reads",
    "request",
]


def compute(
    encoder: Encoder,
    extractions: Sequence[Extraction],
    store: Store,
    batch_size: int | None = None,
    bad_rows: BadRows = "error",
    numbers: Numbers = FULL,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Run one model over what the store lacks, and keep every layer's pooled rows there.

    Args:
        encoder: the model.
        extractions: what to compute; tasks and conditions that share inputs are run together.
        store: where it goes.
        batch_size: inputs at a time, see `batches`; changes no number beyond float rounding.
        bad_rows: what to do with an input that the model cannot take.
        numbers: how the model is run and its rows are kept; as of the extractions.
        advance: called with the number of inputs done.

    Raises:
        BadRow: an input cannot be encoded or pooled, under `bad_rows="error"`.
        VlprobeError: a layer gives NaN or infinite states.
        DataError: the disk is full.
    """
    from vlprobe.extraction.encoding import encode_chunk

    asked = Asked("", Path(), "", store.folder, batch_size, bad_rows, numbers)
    for job in jobs(asked, extractions):
        encode_chunk(lambda: encoder, job, store, advance)


def left_out(encoder: Encoder | Profile, extraction: Extraction, store: Store, bad_rows: BadRows) -> list[str]:
    """Return one line for every input that the model could not take, and why.

    Raises:
        BadRow: there is one, under `bad_rows="error"`: kept by an earlier run that was told to skip.
    """
    lines: dict[str, None] = {}
    for side, questions in extraction.sides.items():
        reader = f"{encoder.name}, layers of {side.partition(':')[0]}" if side else encoder.name
        why = {section: store.skipped(extraction.home, section) for section in questions.kinds}
        refused = [bytes.fromhex(name) for names in why.values() for name in names]
        if not refused:
            continue
        for place in np.flatnonzero(np.isin(keys_of(questions.names), np.array(refused, KEY))).tolist():
            question = questions[place]
            problem = why[question.section].get(question.name)
            if problem is None:
                continue
            if bad_rows == "error":
                raise BadRow(question.example.place or question.example.id, problem)
            lines[f"{question.example.place}: {problem} (left out for {reader})"] = None
    return list(lines)


def extract(
    model: Encoder,
    task: Task,
    split: str,
    condition: str = "matched",
    seed: int = 0,
    pooling: str | None = None,
    store: Store | None = None,
    batch_size: int | None = None,
) -> dict[str, Features]:
    """Return layer -> features of one split of a task: for notebooks; a `Study` does it for many.

    Args:
        model: from `load_model`.
        task: from `load_task`.
        split: one of its splits.
        condition: one of `CONDITIONS`.
        seed: draws the derangement of `mismatched`.
        pooling: a name of `POOLINGS[task.unit]`; the first one there if None.
        store: kept there and read again next time; nowhere if None.
        batch_size: inputs at a time, at most; None: as many as make it fastest, on a GPU found by trial.

    Raises:
        StudyError: unknown condition or pooling, or the model cannot be asked this under this condition.
        BadRow: an example cannot be encoded.
    """
    how = check_pooling(task.unit, pooling or next(iter(POOLINGS[task.unit])))
    reason = obstacle(condition, task, model.modalities, model.needs, model.masks)
    if reason:
        raise StudyError(f"task {task.name} cannot be put to {model.name} under condition {condition}: {reason}")
    examples = pair(task.load(split), condition, task.level, seed, split)
    extraction = request(model, examples, task.unit, how, ImageDigests())
    with tempfile.TemporaryDirectory() as folder:
        store = store or Store(Path(folder))
        compute(model, [extraction], store, batch_size)
        return {layer: features(extraction, store, layer) for layer in layers_of(extraction, store)}
