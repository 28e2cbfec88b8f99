"""Representations on disk, addressed by content: the same question is never put to the same model twice.

`FOLDER/HOME/SHARD.safetensors`: a home holds what one model (its revision, the number format) answered; a shard, what
it answered to some hundred inputs at once. Shards are written to a temporary name, flushed and renamed: a file that is
there is whole, any number of processes may write at once, and a run that was killed lacks nothing but the shards that
it had not finished.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlprobe.aside import aside, sweep
from vlprobe.digest import digest
from vlprobe.errors import DataError, unwritable
from vlprobe.records import cache
from vlprobe.store.index import Index
from vlprobe.store.rows import Rows, find, fresh
from vlprobe.store.shard import ANOTHER, FORMAT, Damaged, Gone, Outdated, Section, Shard, write_shard

__all__ = ["Damaged", "Gone", "Outdated", "Section", "Shard", "Store", "default_folder"]

MANIFEST = "manifest.json"
ENDING = ".safetensors"


def default_folder() -> Path:
    """Return `$VLPROBE_CACHE/features`, or `~/.cache/vlprobe/features` where that is not set."""
    return cache() / "features"


class Store:
    """The shards of any number of models.

    Args:
        folder: created when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[Path] = []
        """Shards that were not what was written: they have been removed."""
        self._opened: dict[str, dict[Path, Shard]] = {}
        self._held: dict[tuple[str, str], Index] = {}
        self._last: tuple[tuple[str, str, np.ndarray], Rows] | None = None
        """What was asked for last, and where it is."""

    def path(self, home: str, shard: str) -> Path:
        """Return the file of one shard."""
        return self._home(home) / f"{shard[:32]}{ENDING}"

    def describe(self, home: str, content: Mapping[str, Any]) -> None:
        """Write a home's manifest, unless it is there: what a person reads to know what the folder holds.

        Raises:
            DataError: the disk is full, or the folder cannot be written to; so do `note` and `note_first`.
        """
        if self.noted(home, MANIFEST) is None:
            self.note(home, MANIFEST, {"home": home, **content})

    def noted(self, home: str, name: str) -> dict[str, Any] | None:
        """Return what is written down about a home under a name; None: nothing that can be read."""
        try:
            said = json.loads((self._home(home) / name).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return said if isinstance(said, dict) else None

    def note(self, home: str, name: str, content: Mapping[str, Any]) -> None:
        """Write something down about a home, whatever was there."""
        self._write_note(self._home(home) / name, content, first=False)

    def note_first(self, home: str, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Write something down about a home, unless somebody has; return what stands there."""
        path = self._home(home) / name
        if path.exists() and self.noted(home, name) is None:
            path.unlink(missing_ok=True)  # files appear whole: it was damaged since
        self._write_note(path, content, first=True)
        return self.noted(home, name) or dict(content)

    def _write_note(self, path: Path, content: Mapping[str, Any], first: bool) -> None:
        try:
            with aside(path, first) as temporary:
                temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
        except OSError as error:
            raise unwritable("representations", path.parent, error, ANOTHER) from error

    def write(self, home: str, shard: str, sections: Mapping[str, Section]) -> None:
        """Write one shard: all of it, or nothing.

        Args:
            home: address of the model.
            shard: address of the inputs.
            sections: by name.

        Raises:
            DataError: the disk is full, or the folder cannot be written to.
        """
        path = self.path(home, shard)
        write_shard(path, sections)
        if home in self._opened and path not in self._opened[home]:
            self._open(home, path)  # listing the folder for every shard would take the square of their number

    def refresh(self, home: str) -> None:
        """Look again which shards a home has: other processes write, too. Damaged ones are removed."""
        folder = self._home(home)
        found = set(folder.glob(f"*{ENDING}")) if folder.is_dir() else set()
        opened = self._opened.setdefault(home, {})
        gone = opened.keys() - found
        for path in gone:
            del opened[path]
        if gone:
            self._last = None
            self._held = {key: known for key, known in self._held.items() if key[0] != home}
        for path in sorted(found - opened.keys()):
            self._open(home, path)

    def sweep(self, home: str) -> None:
        """Remove what runs that were killed left unfinished of a home."""
        sweep(self._home(home))

    def changed(self, home: str, shard: str, asked: Iterable[tuple[str, str]]) -> bool:
        """Say, without listing the folder, whether another process has written or removed what is needed now.

        Args:
            home: address of the model.
            shard: address of a shard that is about to be written.
            asked: section and question, of which the shards that hold them must still be there.
        """
        known = [self.held(home, section).get(question) for section, question in asked]
        used = {each[0].path for each in known if each is not None}
        mine = self.path(home, shard)
        return (mine not in used and mine.exists()) or not all(path.exists() for path in used)

    def _open(self, home: str, path: Path) -> None:
        """Open one shard and index it; a damaged one is removed."""
        try:
            shard = self._opened[home][path] = Shard(path)
        except Damaged as damaged:
            self._remove(damaged)
            return
        self._last = None
        for (whose, section), known in self._held.items():  # added to, not made anew
            if whose == home:
                self._add(home, shard, section, known)

    def _remove(self, damaged: Damaged) -> None:
        """Remove a shard, so that another one can take its place.

        Raises:
            DataError: the folder cannot be written to.
        """
        try:
            damaged.path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{damaged} (this could not be done for you: {error.strerror})") from None
        self.damaged.append(damaged.path)

    def held(self, home: str, section: str) -> Index:
        """Return what is known of a section: which shard answers which question."""
        if (home, section) not in self._held:
            known = Index()
            for shard in list(self._shards(home)):
                self._add(home, shard, section, known)
            self._held[home, section] = known
        return self._held[home, section]

    def holds(self, home: str, section: str, names: np.ndarray) -> np.ndarray:
        """Return (question,) whether each is answered.

        Args:
            home: address of the model.
            section: its name.
            names: (question, 16) uint8: content addresses.
        """
        return self.held(home, section).find(names)[0] >= 0

    def _add(self, home: str, shard: Shard, section: str, known: Index) -> None:
        """Add a shard to an index; one that has become unreadable is removed."""
        try:
            known.add(shard, section)
        except Damaged as damaged:
            self._remove(damaged)
            self._opened[home].pop(shard.path, None)
            self._last = None

    def layers(self, home: str, section: str) -> dict[str, str]:
        """Return layer -> how it was pooled; empty where the home has no answer of this section."""
        for shard in self._shards(home):
            if layers := shard.layers(section):
                return layers
        return {}

    def skipped(self, home: str, section: str) -> dict[str, str]:
        """Return the questions that the model could not take -> why."""
        known = self.held(home, section)
        return {
            question: why
            for shard in self._shards(home)
            for question, why in shard.skipped(section).items()
            if known[question][0] is shard
        }

    def read(
        self,
        home: str,
        section: str,
        layer: str,
        names: np.ndarray,
        memory: Callable[[tuple[int, int]], np.ndarray] = fresh,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return one layer's rows of some questions, in their order.

        Args:
            home: address of the model.
            section: its name.
            layer: layer address.
            names: (question, 16) uint8: content addresses, all of them held.
            memory: gives (row, width) float32 for the rows.

        Returns:
            (row, width) float32 rows, (row,) index into `names`, (row,) int32 index of the unit inside its input; the
            rows of a question are neighbours, in the order of its units.

        Raises:
            Damaged: a shard is not what was written; it has been removed.
            Gone: some are not held: somebody has removed them.
        """
        try:
            rows = self._find(home, section, names)
            return rows.read(section, layer, memory), rows.owner, rows.unit
        except Damaged as damaged:
            if not isinstance(damaged, Gone):
                self._remove(damaged)
            self.refresh(home)
            raise

    def _find(self, home: str, section: str, names: np.ndarray) -> Rows:
        """Return where the rows of some questions are, and keep it for the next layer."""
        if self._last is not None:
            asked, rows = self._last
            if asked[:2] == (home, section) and np.array_equal(asked[2], names):
                return rows
        rows = find(self.held(home, section), section, names, self._home(home))
        self._last = (home, section, names.copy()), rows
        return rows

    def homes(self) -> list[Path]:
        """Return the folders of all models that the store knows, in the order of their names."""
        return sorted(path for path in self.folder.iterdir() if path.is_dir()) if self.folder.is_dir() else []

    def _home(self, home: str) -> Path:
        return self.folder / digest("home", FORMAT, home)[:32]

    def _shards(self, home: str) -> Iterator[Shard]:
        if home not in self._opened:
            self.refresh(home)
        opened = self._opened[home]
        yield from (opened[path] for path in sorted(opened))
