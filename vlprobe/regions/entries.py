"""The two interfaces of a feature file format: what reads entries, what writes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vlprobe.types import Regions


class Entries(ABC):
    """The entries of a feature file, one an image, read one at a time."""

    path: Path
    """The file or folder."""
    names: Sequence[str]
    """Of the entries, as the file spells them; a name that stands twice is there twice."""
    files: Sequence[Path]
    """The files that hold the data."""

    @abstractmethod
    def read(self, name: str) -> Regions:
        """Return one entry.

        Raises:
            DataError: it is damaged, or not of this format.
        """


class EntryWriter(ABC):
    """Adds entries to a feature file; each is there as a whole or not at all, also after the run was killed."""

    @abstractmethod
    def holds(self, image: str) -> bool:
        """Say whether there is an entry of an image, by the stem of its file name."""

    @abstractmethod
    def write(self, image: str, regions: Regions) -> None:
        """Add the entry of an image, by the stem of its file name.

        Raises:
            DataError: the regions lack what the format needs.
        """

    def close(self) -> None:  # noqa: B027 (formats whose entries stand alone have nothing to finish)
        """Finish the file; a file that is not finished can be read and added to all the same."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
