"""The features of a study as Parquet, read from the store: a file for every model, task, input and layer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlprobe.cells import Cell
from vlprobe.errors import DataError
from vlprobe.extraction import Extraction, features, layers_of, missing
from vlprobe.pairing import read_condition
from vlprobe.store import Store
from vlprobe.study import Study
from vlprobe.types import Features

INDEX = "features/index.jsonl"


@dataclass(frozen=True)
class Indexed:
    """One line of `features/index.jsonl`: where one layer's features under one condition are."""

    model: str
    """Model name, as the study calls it."""
    stage: str
    """The checkpoint's stage."""
    task: str
    """Task name."""
    condition: str
    """`matched`, `mismatched`, `text-only` or `image-only`."""
    seed: int
    """Drew the derangement; the rows' parts are in column `part_SEED`."""
    layer: str
    """Layer address."""
    pooling: str
    """How positions were pooled into a row."""
    file: str
    """The Parquet file: several lines name the same one where a model sees the same inputs."""
    rows: int
    """Rows of the file."""
    width: int
    """Numbers of a row."""
    key: str
    """Content address: the same model, inputs, pooling and layer give the same key."""


Shown = dict[tuple[str, str, str], list[tuple[Cell, str, Extraction]]]
"""(model, task, address of the inputs) -> the cells that show them, with the simple condition."""


def write_features(study: Study, folder: Path) -> list[str]:
    """Write a study's features below a folder and return the files' paths in it.

    Columns: `id`, `index` (which unit of its example), `group`, `target`, `part_SEED` (train, validation, test), and
    `features`, (width,) float32.

    Args:
        study: the one that the results are of.
        folder: where `features/` is made.

    Raises:
        DataError: results or representations are missing: the study is another, or was not run to its end.
    """
    plan, store = study.plan(), study.store()
    if plan.probes:
        raise DataError(
            f"{study.output} lacks {plan.probes} results of this study: run it to its end, and name the study file, "
            "with the data and models, that the results were made from"
        )
    lines: list[Indexed] = []
    for number, cells in enumerate(_shown([cell for cell in plan.cells if not cell.untrained]).values(), start=1):
        lines += _write_inputs(number, cells, store, folder)
    index = folder / INDEX
    index.write_text("".join(json.dumps(asdict(line), ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return [INDEX, *dict.fromkeys(line.file for line in lines)]


def _shown(cells: list[Cell]) -> Shown:
    shown: Shown = {}
    for cell in cells:
        for condition, extraction in zip(read_condition(cell.condition), _both(cell), strict=True):
            mine = shown.setdefault((cell.called, cell.task.name, extraction.pairs), [])
            if (condition, cell.seed) not in [(other, held.seed) for held, other, _ in mine]:
                mine.append((cell, condition, extraction))
    return shown


def _both(cell: Cell) -> tuple[Extraction, ...]:
    """Return what the probe is trained on and, of `A>B`, what it is tested on."""
    return (cell.trained, cell.tested)[: len(read_condition(cell.condition))]


def _write_inputs(
    number: int, cells: list[tuple[Cell, str, Extraction]], store: Store, folder: Path
) -> Iterator[Indexed]:
    """Write every layer that is probed of the same inputs, once, and yield a line for every condition and seed."""
    first, _, extraction = cells[0]
    if missing([extraction], store):
        raise DataError(
            f"{store.folder} lacks representations of {first.called} on {first.task.name}: run the study again"
        )
    poolings = layers_of(extraction, store)
    plain = re.sub(r"[^\w.-]+", "-", f"{first.model.name}-{first.task.name}-{cells[0][1]}")[:100]
    for layer in first.layers:
        if layer not in poolings:
            continue
        found = features(extraction, store, layer)
        file = f"features/{number:03d}-{plain}/{layer}.parquet"
        _write(found, cells, folder / file)
        for cell, condition, _ in cells:
            yield Indexed(
                model=cell.model.name,
                stage=cell.model.stage,
                task=cell.task.name,
                condition=condition,
                seed=cell.seed,
                layer=layer,
                pooling=poolings[layer],
                file=file,
                rows=found.X.shape[0],
                width=found.X.shape[1],
                key=found.key,
            )


def _write(found: Features, cells: list[tuple[Cell, str, Extraction]], path: Path) -> None:
    parts = {f"part_{cell.seed}": pa.array([cell.part[name] for name in found.id]) for cell, _, _ in cells}
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(found.X)), found.X.shape[1])
    columns = {"id": found.id, "index": found.index, "group": found.group, "target": found.y}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, **parts, "features": vectors}), path, compression="zstd")
