"""What takes long to find out about large files, kept in a small JSON file beside them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlprobe.aside import aside
from vlprobe.digest import digest, file_digest

VERSION = 1
"""Of the layout; a file of another version is made anew."""


class Sidecar:
    """Facts about files, true as long as their sizes and times of change are those they were found at.

    Args:
        path: what the facts are about: a file or a folder. They are kept in `<path>.vlprobe-index.json`.
        files: the files that hold the data.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path = path.with_name(path.name + ".vlprobe-index.json")
        self._files = sorted(files)

    def read(self) -> dict[str, Any]:
        """Return what was kept; nothing, where the files changed since or nothing readable is there."""
        try:
            kept = json.loads(self.path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(kept, dict) or kept.get("stamp") != self._stamp() or not isinstance(kept.get("facts"), dict):
            return {}
        facts: dict[str, Any] = kept["facts"]
        return facts

    def add(self, **facts: Any) -> None:
        """Keep facts beside those that are there; where the folder cannot be written to, they are found out again."""
        kept = {"stamp": self._stamp(), "facts": self.read() | facts}
        with contextlib.suppress(OSError), aside(self.path) as temporary:
            temporary.write_text(json.dumps(kept), encoding="utf-8")

    def revision(self) -> str:
        """Return the sha256 of the file; of several, of their sorted names and sha256s."""
        kept = self.read().get("sha256")
        if isinstance(kept, str):
            return kept
        made = [(file.name, file_digest(file)) for file in self._files]
        found = made[0][1] if len(made) == 1 else digest(made)
        self.add(sha256=found)
        return found

    def _stamp(self) -> str:
        stats = [(file.name, file.stat()) for file in self._files]
        return digest(VERSION, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
