"""A results folder, opened for reading: the results of the study that `study.json` describes, and what they tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlprobe.errors import DataError
from vlprobe.findings import (
    FILE,
    RELIANCE_FILE,
    Finding,
    Reliance,
    find,
    find_reliance,
    read_findings,
    read_reliance,
)
from vlprobe.findings.answers import Answer, choose
from vlprobe.results import Results, of_study
from vlprobe.types import Result


@dataclass(frozen=True)
class StudyFolder:
    """What a study has written, finished or not."""

    results: Results
    """The folder."""
    described: Mapping[str, Any]
    """`study.json`."""
    chosen: tuple[Result, ...]
    """Its results that are of the study that it describes."""
    answers: tuple[Answer, ...]
    """Which of them answer for each model, task and condition."""

    def findings(self) -> list[Finding]:
        """Return what was found; made anew, and not written, where the file is older than the results."""
        older = self._older(FILE)
        return find(self.results, self.chosen) if older else read_findings(self.results.folder)

    def reliance(self) -> list[Reliance]:
        """Return what every layer loses; made anew, and not written, where the file is older than the results."""
        older = self._older(RELIANCE_FILE)
        return find_reliance(self.results, self.chosen) if older else read_reliance(self.results.folder)

    def _older(self, name: str) -> bool:
        """Say whether a file is missing, or was written before the last result: the run was killed."""
        path = self.results.folder / name
        return not path.exists() or path.stat().st_mtime < self.results.file.stat().st_mtime


def open_folder(folder: Path) -> StudyFolder:
    """Open a results folder.

    Raises:
        DataError: there are no results, or files are damaged, or results are of runs that differ in limit or data.
    """
    results = Results(folder)
    described = results.description()
    chosen = of_study(results.all(), described)
    if not any(result.layer and not result.control for result in chosen):
        raise DataError(f"{folder}: there is no result of a probe yet; run the study on, then come back")
    return StudyFolder(results, described, tuple(chosen), tuple(choose(chosen)))
