"""Examples -> Features: batches through an encoder, pooled at once, kept in a store."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from vlprobe.digest import digest, file_digest
from vlprobe.errors import BadRow, StudyError, VlprobeError
from vlprobe.images import open_image
from vlprobe.pairing import obstacle, pair, show
from vlprobe.pooling import POOLINGS, check_pooling, pool
from vlprobe.store import Store
from vlprobe.types import Example, Features, Task, Unit

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder

VERSION = 1
"""Part of every key: raise it when the same input would no longer give the same features."""
SHARD = 512
"""Distinct inputs a shard: what a killed run can lose."""


@dataclass(frozen=True)
class Extraction:
    """What one model is to be asked: distinct inputs, pooled one way."""

    examples: tuple[Example, ...]
    """As the model sees them: what it does not read is taken out."""
    inputs: tuple[int, ...]
    """(distinct input,) index of an example that holds it."""
    which: tuple[int, ...]
    """(example,) index into `inputs`."""
    unit: Unit
    """What one row belongs to."""
    how: str
    """Pooling."""
    key: str
    """Content address of the pooled rows in the store: of the set of distinct inputs, whatever their order."""
    pairs: str
    """Content address of which example was given which input: two conditions may share `key`, never this."""

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-len(self.inputs) // SHARD)


class ImageDigests:
    """sha256 of images, each file read and decoded once: so a damaged file is found before a model runs."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def __call__(self, example: Example) -> str:
        """Return the digest of an example's image, empty for none.

        Raises:
            BadRow: the image cannot be opened (see `open_image`).
        """
        image = example.image
        if image is None:
            return ""
        if isinstance(image, bytes):
            open_image(image, example.place)
            return hashlib.sha256(image).hexdigest()
        if image not in self._known:
            open_image(image, example.place)
            self._known[image] = file_digest(image)
        return self._known[image]

    def files(self) -> dict[str, str]:
        """Return file -> digest of all images asked for so far."""
        return {str(path): known for path, known in self._known.items()}


def request(encoder: Encoder, examples: Sequence[Example], unit: Unit, how: str, images: ImageDigests) -> Extraction:
    """Say what is to be computed, without computing it.

    Raises:
        BadRow: an image cannot be opened.
    """
    seen = tuple(show(example, encoder.modalities) for example in examples)
    if unit == "word" and not any(example.words for example in seen):
        unit, how = "input", "auto"  # one target each, asked of the image: see `show`
    names: list[str] = []
    for example in seen:
        asked = [k for k, target in enumerate(example.target) if target is not None]
        names.append(digest(example.text, images(example), example.words, example.boxes, asked))
    # Sorted by content: the same inputs in another order (an image model's mismatch) are the same extraction.
    holder = {name: i for i, name in reversed(list(enumerate(names)))}
    distinct = sorted(holder)
    place = {name: k for k, name in enumerate(distinct)}
    key = digest(VERSION, encoder.revision, type(encoder).__name__, unit, how, distinct)
    inputs, which = tuple(holder[name] for name in distinct), tuple(place[name] for name in names)
    return Extraction(seen, inputs, which, unit, how, key, digest(key, names))


def missing(extraction: Extraction, store: Store) -> int:
    """Return the number of distinct inputs that the store does not hold yet."""
    count = len(extraction.inputs)
    absent = [shard for shard in range(extraction.shards) if not store.has(extraction.key, shard)]
    return sum(min(SHARD, count - shard * SHARD) for shard in absent)


def compute(
    encoder: Encoder,
    extraction: Extraction,
    store: Store,
    batch_size: int = 32,
    bad_rows: Literal["error", "skip"] = "error",
    advance: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Run the model over what the store lacks, and keep every layer's pooled rows there.

    Args:
        encoder: the model.
        extraction: what to compute.
        store: where it goes.
        batch_size: inputs at a time; changes no number beyond float rounding.
        bad_rows: what to do with an input that the model cannot take.
        advance: called with the number of inputs done.

    Returns:
        One line for every input left out, and why.

    Raises:
        BadRow: an input cannot be encoded or pooled, under `bad_rows="error"`.
        VlprobeError: a layer gives NaN or infinite states.
    """
    skipped: list[str] = []
    for shard in range(extraction.shards):
        notes = store.notes(extraction.key, shard) if store.has(extraction.key, shard) else {}
        if "skipped" not in notes:
            chosen = extraction.inputs[shard * SHARD : (shard + 1) * SHARD]
            examples = [extraction.examples[i] for i in chosen]
            tensors, lost = _encode_shard(encoder, examples, extraction, batch_size, bad_rows, advance)
            layers = {name: how for name, (_, how) in tensors.items() if how}
            notes = {"skipped": json.dumps(lost), "layers": json.dumps(layers)}
            store.write(extraction.key, shard, {name: array for name, (array, _) in tensors.items()}, notes)
        lost = json.loads(notes["skipped"])
        if lost and bad_rows == "error":  # kept by an earlier run that was told to skip
            raise BadRow(*lost[0])
        skipped += [f"{place}: {problem} (left out for {encoder.name})" for place, problem in lost]
    return skipped


def layers_of(extraction: Extraction, store: Store) -> dict[str, str]:
    """Return layer -> how it was pooled, for every layer that the unit could be pooled from.

    Empty as long as the store holds no shard of it.
    """
    layers: dict[str, str] = {}
    for shard in range(extraction.shards):
        if not layers and store.has(extraction.key, shard):
            layers = json.loads(store.notes(extraction.key, shard).get("layers", "{}"))
    return layers


def features(extraction: Extraction, store: Store, layer: str) -> Features:
    """Return one layer's features of all examples, read from the store.

    Rows follow the examples, and inside one its units; an example that was left out has none.
    """
    parts: list[np.ndarray] = []
    origin: list[np.ndarray] = []
    units: list[np.ndarray] = []
    for shard in range(extraction.shards):
        if layer not in store.names(extraction.key, shard):  # every input of this shard was left out
            continue
        parts.append(store.read(extraction.key, shard, layer))
        origin.append(store.read(extraction.key, shard, "input") + shard * SHARD)
        units.append(store.read(extraction.key, shard, "unit"))
    X, of_input, unit = np.concatenate(parts), np.concatenate(origin), np.concatenate(units)
    # Rows are sorted by input, so one input's rows are one slice; examples with the same input share it.
    which = np.asarray(extraction.which)
    start, stop = np.searchsorted(of_input, which, "left"), np.searchsorted(of_input, which, "right")
    rows_of = np.concatenate([np.arange(a, b) for a, b in zip(start, stop, strict=True)])
    owner = np.repeat(np.arange(len(which)), stop - start)
    examples = [extraction.examples[i] for i in owner]
    index = unit[rows_of].astype(np.int32)
    return Features(
        layer=layer,
        X=X[rows_of],
        y=np.array([example.target[k] for example, k in zip(examples, index, strict=True)]),
        group=np.array([example.group for example in examples]),
        id=np.array([example.id for example in examples]),
        index=index,
        key=digest(extraction.pairs, layer),
    )


def extract(
    model: Encoder,
    task: Task,
    split: str,
    condition: str = "matched",
    seed: int = 0,
    pooling: str | None = None,
    store: Store | None = None,
    batch_size: int = 32,
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
        batch_size: inputs at a time.

    Raises:
        StudyError: unknown condition or pooling, or the model cannot be asked this under this condition.
        BadRow: an example cannot be encoded.
    """
    how = check_pooling(task.unit, pooling or next(iter(POOLINGS[task.unit])))
    reason = obstacle(condition, task, model.modalities, model.needs)
    if reason:
        raise StudyError(f"task {task.name} cannot be put to {model.name} under condition {condition}: {reason}")
    examples = pair(task.load(split), condition, task.level, seed, split)
    extraction = request(model, examples, task.unit, how, ImageDigests())
    with tempfile.TemporaryDirectory() as folder:
        store = store or Store(Path(folder))
        compute(model, extraction, store, batch_size)
        return {layer: features(extraction, store, layer) for layer in layers_of(extraction, store)}


_Tensors = dict[str, tuple[np.ndarray, str]]


def _encode_shard(
    encoder: Encoder,
    examples: list[Example],
    extraction: Extraction,
    batch_size: int,
    bad_rows: str,
    advance: Callable[[int], None],
) -> tuple[_Tensors, list[tuple[str, str]]]:
    """Return layer -> (rows of the shard, pooling), with `input` and `unit` beside them, and what was left out."""
    # Neighbours in length share a batch, so that little is spent on padding.
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].text or ""))
    pieces: dict[str, list[np.ndarray]] = {"input": [], "unit": []}
    hows: dict[str, str] = {"input": "", "unit": ""}
    lost: list[tuple[str, str]] = []
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        for indices, encoded in _attempt(encoder, examples, chosen, extraction, bad_rows, lost):
            for name, array, how in encoded:
                rows = np.asarray(indices, dtype=np.int64)[array] if name == "input" else array
                pieces.setdefault(name, []).append(rows)
                hows[name] = how
        advance(len(chosen))
    _refuse_ragged(pieces, encoder)
    joined = {name: np.concatenate(parts) if parts else np.zeros(0, np.int64) for name, parts in pieces.items()}
    by_input = np.lexsort((joined["unit"], joined["input"]))
    return {name: (array[by_input], hows[name]) for name, array in joined.items()}, lost


def _refuse_ragged(pieces: dict[str, list[np.ndarray]], encoder: Encoder) -> None:
    counts = {name: sum(map(len, parts)) for name, parts in pieces.items()}
    for name, count in counts.items():
        if count != counts["input"]:
            raise VlprobeError(
                f"{encoder.name}, layer {name}: {count} rows where {counts['input']} were asked for; the encoder gave "
                "this layer, or the roles of its positions, for some batches only"
            )


_Encoded = list[tuple[str, np.ndarray, str]]


def _attempt(
    encoder: Encoder,
    examples: list[Example],
    chosen: list[int],
    extraction: Extraction,
    bad_rows: str,
    lost: list[tuple[str, str]],
) -> list[tuple[list[int], _Encoded]]:
    """Encode a batch; where it holds a bad row that may be skipped, one example at a time."""
    try:
        return [(chosen, _encode(encoder, [examples[i] for i in chosen], extraction))]
    except BadRow:
        if bad_rows == "error":
            raise
    done: list[tuple[list[int], _Encoded]] = []
    for i in chosen:
        try:
            done.append(([i], _encode(encoder, [examples[i]], extraction)))
        except BadRow as error:
            lost.append((error.place, error.problem))
    return done


def _encode(encoder: Encoder, batch: list[Example], extraction: Extraction) -> _Encoded:
    """Return (layer, rows, pooling) for every layer the unit can be pooled from, and the rows' origin."""
    out: _Encoded = []
    origin: tuple[np.ndarray, np.ndarray] | None = None
    for pooled in pool(encoder.encode(batch), batch, extraction.unit, extraction.how):
        rows = pooled.rows.cpu().numpy()
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            example = batch[int(pooled.example[int(np.argmin(finite))])]
            raise VlprobeError(
                f"{encoder.name}, layer {pooled.layer}: the states of example {example.id} ({example.place}) hold NaN "
                "or infinite values; the checkpoint is damaged, or the precision too low"
            )
        out.append((pooled.layer, rows, pooled.how))
        origin = (pooled.example, pooled.unit)
    if origin is None:
        raise VlprobeError(
            f"{encoder.name}: no layer has positions that unit '{extraction.unit}' could be pooled from by "
            f"'{extraction.how}'; choose another pooling"
        )
    return [*out, ("input", origin[0], ""), ("unit", origin[1], "")]
