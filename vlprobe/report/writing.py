"""The files of a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlprobe.report.tables import comma_separated, latex, long_table, main_table, markdown


def write_report(contents: Mapping[str, Any], folder: Path) -> Path:
    """Write a report and return where it is; what is there of an earlier one is replaced.

    Args:
        contents: as `read_contents` returns them.
        folder: created where it is not there.
    """
    main = main_table(contents)
    _write(folder / "tables" / "main.md", markdown(main))
    _write(folder / "tables" / "main.tex", latex(main))
    _write(folder / "tables" / "main.csv", comma_separated(main))
    _write(folder / "tables" / "scores.csv", comma_separated(long_table(contents)))
    return folder


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
