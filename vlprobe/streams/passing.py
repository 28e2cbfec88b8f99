"""What a worker does: it runs a model over one bucket, and writes what the rows that go by leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from vlprobe.digest import digest
from vlprobe.extraction import Extraction, features, forwards
from vlprobe.extraction.jobs import at_work
from vlprobe.extraction.passes import chunks
from vlprobe.probes.moments import Moments, of_classes, of_numbers
from vlprobe.store import Section, Store
from vlprobe.streams import Passing, Stream
from vlprobe.streams.files import moments_to, read, save
from vlprobe.streams.fitting import answering
from vlprobe.types import Features


class Rows:
    """The rows of one chunk, read as they are from a store; they are nowhere else.

    Args:
        sections: by name.
    """

    def __init__(self, sections: Mapping[str, Section]) -> None:
        self._sections = sections
        self._places = {
            name: {question: place for place, question in enumerate(section.questions)}
            for name, section in sections.items()
        }

    def has(self, section: str, question: str) -> bool:
        """Say whether a question went by."""
        return question in self._places.get(section, {})

    def rows(self, section: str, layer: str, question: str) -> int:
        """Return how many rows of a layer a question has."""
        if not self.has(section, question) or layer not in self._sections[section].layers:
            return 0
        place = self._places[section][question]
        return int(self._sections[section].start[place + 1] - self._sections[section].start[place])

    def read(self, home: str, section: str, layer: str, names: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what `Store.read` does."""
        here = self._sections[section]
        places = np.array([self._places[section][name.tobytes().hex()] for name in names])
        counts = here.start[places + 1] - here.start[places]
        rows = np.concatenate([np.arange(here.start[p], here.start[p + 1]) for p in places])
        X = here.layers[layer][rows].astype(np.float32)
        return X, np.repeat(np.arange(len(names)), counts), here.unit[rows]


@dataclass
class _Sum:
    """What the rows of one stream have left so far."""

    stream: Stream
    """The stream."""
    fitted: Mapping[str, np.ndarray]
    """Probes that answer."""
    moments: dict[str, Moments]
    """`layer|control` -> moments."""
    arrays: dict[str, list[np.ndarray]]
    """`layer|control|right` -> counts; `layer|...` -> of each chunk, what was answered."""

    def add(self, rows: Features) -> None:
        """Take the rows of one layer."""
        for control, labels in self.stream.labels.items():
            name = f"{rows.layer}|{control}"
            y = rows.y
            if labels:
                units = zip(rows.id.tolist(), rows.index.tolist(), strict=True)
                y = np.array([labels[unit] for unit in units], y.dtype if y.dtype.kind == "f" else None)
            if self.stream.part != "test":
                there = (of_classes if self.stream.classes else of_numbers)(rows.X, y)
                known = self.moments.get(name)
                self.moments[name] = there if known is None else known.merge(there)
            answers = answering(name, self.fitted)
            if self.stream.part == "validation" and self.stream.classes:
                right = np.array([(probe.predict(rows.X) == y).sum() for probe in answers])
                self.arrays[f"{name}|right"] = [sum(self.arrays.get(f"{name}|right", ()), right)]
            if self.stream.part == "test" and answers:
                self.arrays.setdefault(f"{name}|predicted", []).append(answers[0].predict(rows.X))
        if self.stream.part == "test":
            for each in ("id", "index", "group", "y"):
                self.arrays.setdefault(f"{rows.layer}|{each}", []).append(getattr(rows, each))

    def write(self) -> None:
        """Write the file."""
        found = {name: np.concatenate(parts) for name, parts in self.arrays.items()}
        for name, moments in self.moments.items():
            found |= moments_to(name, moments)
        save(self.stream.path, found)


def pass_by(job: Passing) -> int:
    """Run a model over one bucket of some streams; return the inputs done that nobody was told of.

    Raises:
        BadRow, VlprobeError, DataError: see `compute`.
    """
    from vlprobe.extraction.encoding import Chunk, manifest

    waiting = [stream for stream in job.streams if not stream.path.exists()]
    if not waiting:
        return 0
    asked = job.asked
    load, store, advance, told = at_work(asked)
    encoder = load()
    store.describe(job.home, manifest(encoder, asked.numbers))
    sums = [_Sum(each, read(each.fitted) if each.part != "train" else {}, {}, {}) for each in waiting]
    # Of all streams: the last bits of a sum are also those of which rows were run together.
    for chunk in chunks(forwards(stream.extraction for stream in job.streams)):
        sections = Chunk(encoder, chunk, asked.numbers, asked.bad_rows).encode(asked.batch_size, advance)
        _remember(store, job.home, sections)
        rows = Rows(sections)
        for each in sums:
            for layer in each.stream.layers:
                here = _within(each.stream.extraction, rows, layer)
                if here is not None:
                    each.add(features(here, rows, layer))
    for each in sums:
        each.write()
    return sum(told)


def _within(extraction: Extraction, rows: Rows, layer: str) -> Extraction | None:
    """Return what is asked of a layer of the rows that are there, if that is anything."""
    if not extraction.knows(layer):
        return None
    questions = extraction.of(layer)
    there = np.array([rows.rows(section, layer, name) > 0 for section, name in questions.addresses()], bool)
    if not there.any():
        return None
    return replace(extraction, sides={extraction.side(layer): questions.take(there)})


def _remember(store: Store, home: str, sections: Mapping[str, Section]) -> None:
    """Keep, of rows that are not kept, which layers there are, and which inputs the model could not take."""
    for name, section in sections.items():
        if not section.skipped and store.layers(home, name):
            continue
        skipped = tuple(sorted(section.skipped))
        bare = Section(
            questions=skipped,
            start=np.zeros(len(skipped) + 1, np.int64),
            unit=np.zeros(0, np.int32),
            layers={layer: rows[:0] for layer, rows in section.layers.items()},
            how=section.how,
            skipped=section.skipped,
        )
        store.write(home, digest("bare", name, skipped, sorted(section.how.items())), {name: bare})
