"""Features in the store -> how alike layers are, on rows that are the same items in the same order for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlprobe.cells import Cell, Layers
from vlprobe.digest import digest, generator
from vlprobe.errors import DataError
from vlprobe.extraction import layers_of, missing
from vlprobe.results import Results
from vlprobe.similarity.alike import Alike, AllAlike, LayerOf, read_similarity, write_similarity
from vlprobe.similarity.cka import biased_cka, cka
from vlprobe.store import Damaged, Store
from vlprobe.types import Features

VERSION = 1
"""Part of the file's address: raise it when the same features would no longer give the same numbers."""
MOST, FEWEST = 500, 8
"""Items that are compared: more bring little, and their Gram matrices grow with the square; fewer say nothing."""


def tell_similarity(cells: Sequence[Cell], seed: int, results: Results, store: Store) -> None:
    """Write `similarity.json`, unless what is there is of the same cells.

    Representations that the store does not hold are not computed again for it: the file says what is lacking. Once all
    of them are there, it is made anew.

    Args:
        cells: of one plan.
        seed: the study's first.
        results: the folder to write to.
        store: where the representations are.
    """
    asked = [each for each in cells if each.condition == "matched" and each.seed == seed and not each.untrained]
    made_of = digest(VERSION, [[each.model.name, each.model.stage, each.key, *each.layers] for each in asked])
    try:
        known = read_similarity(results.folder)
        if known.made_of == made_of and (not known.lacking or any(missing([each.tested], store) for each in asked)):
            return
    except DataError:
        pass  # missing, or of another version
    found, lacking = [], []
    for task in dict.fromkeys(each.task.name for each in asked):
        mine = [each for each in asked if each.task.name == task]
        alike, why = _of_task(mine, store)
        found += [alike] if alike else []
        lacking += why
    write_similarity(results, AllAlike(made_of, tuple(found), tuple(lacking)))


def _of_task(cells: Sequence[Cell], store: Store) -> tuple[Alike | None, list[str]]:
    """Return how alike all layers of all models are on one task, and what could not be compared."""
    there: list[tuple[Cell, Layers, str]] = []
    heads: list[Features] = []
    lacking: list[str] = []
    for cell in cells:
        try:
            layers, reader = _held(cell, store), Layers(cell, store, ["test"])
            # Two towers may have left out different rows, layers that read alike never do.
            sides = {cell.tested.side(name): name for name in layers}
            heads += [reader.read(layer)["test"] for layer in sides.values()]
            there += [(cell, reader, layer) for layer in layers]
        except DataError as error:
            lacking.append(f"{cell.task.name}, {cell.model.name}: {error}")
    if not there:
        return None, lacking
    task, seed = cells[0].task.name, cells[0].seed
    alone = all(len(np.unique(each.id)) == len(each.id) for each in heads)
    names = chosen_items(heads, alone, seed, task)
    if len(names) < FEWEST:
        few = f"{task}: its layers have items of {len(names)} groups in common; {FEWEST} are needed"
        return None, [*lacking, few]
    try:
        rows = [rows_of(reader.read(layer)["test"], names, alone) for _, reader, layer in there]
    except Damaged as error:  # the run has ended well, and all that is lost is this
        return None, [*lacking, f"{task}: {error}"]
    whose = tuple(LayerOf(cell.model.name, cell.model.stage, layer) for cell, _, layer in there)
    matrices = (tuple(map(tuple, made(rows).tolist())) for made in (cka, biased_cka))
    return Alike(task, seed, len(names), whose, *matrices), lacking


def _held(cell: Cell, store: Store) -> list[str]:
    """Return the layers of a cell whose representations are in the store.

    Raises:
        DataError: some are not.
    """
    extraction = cell.tested
    if missing([extraction], store):
        gone = "went by, and were not kept" if cell.streaming else "are no longer in the store"
        raise DataError(f"its representations {gone}")
    poolable = layers_of(extraction, store)
    return [layer for layer in cell.layers if layer in poolable]


def items_of(part: Features, alone: bool) -> list[str]:
    """Return (row,) names: of the example, and of the unit in it unless each example has one row."""
    return [
        name if alone else f"{name}\x1f{unit}" for name, unit in zip(part.id.tolist(), part.index.tolist(), strict=True)
    ]


def chosen_items(parts: Sequence[Features], alone: bool, seed: int, task: str) -> list[str]:
    """Return the items that are compared: in all of some parts, one of each group, at most `MOST`.

    One of each, since the unbiased estimate takes rows to be independent: rows of one group are alike to any model.

    Args:
        parts: features of the test part.
        alone: whether each example has one row.
        seed: draws which items, of a group and of all.
        task: the task's name.
    """
    common = set.intersection(*(set(items_of(part, alone)) for part in parts))
    group = dict(zip(items_of(parts[0], alone), parts[0].group.tolist(), strict=True))
    drawn: dict[str, str] = {}
    order = generator(seed, "similarity", task).permutation(np.array(sorted(common)))
    for name in order.tolist():
        drawn.setdefault(group[name], name)
    return sorted(list(drawn.values())[:MOST])


def rows_of(part: Features, names: Sequence[str], alone: bool) -> np.ndarray:
    """Return (item, width) the rows of some items, in their order."""
    place = {name: row for row, name in enumerate(items_of(part, alone))}
    return part.X[[place[name] for name in names]]
