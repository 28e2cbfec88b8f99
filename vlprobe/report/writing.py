"""The files of a report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlprobe.aside import aside, sweep
from vlprobe.errors import VlprobeError, unwritable
from vlprobe.report.alike import alike_table
from vlprobe.report.tables import comma_separated, latex, long_table, main_table, markdown

NEEDED = {"altair": "altair", "jinja2": "jinja2", "vl_convert": "vl-convert-python"}
"""Module -> the package that brings it."""


def write_report(contents: Mapping[str, Any], folder: Path) -> Path:
    """Write a report and return where its page is; what is there of an earlier one is replaced, file by file.

    Args:
        contents: as `read_contents` returns them.
        folder: created where it is not there.

    Raises:
        VlprobeError: a package that draws is not installed.
        DataError: the disk is full, or the folder cannot be written to.
    """
    lacking = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if lacking:
        raise VlprobeError(f"a report is drawn with {', '.join(lacking)}; not installed: pip install 'vlprobe[report]'")
    from vlprobe.report.page import page

    sweep(folder, folder / "tables", folder / "figures")
    main = main_table(contents)
    _write(folder / "tables" / "main.md", markdown(main))
    _write(folder / "tables" / "main.tex", latex(main))
    _write(folder / "tables" / "main.csv", comma_separated(main))
    _write(folder / "tables" / "scores.csv", comma_separated(long_table(contents)))
    if contents["similarity"]["tasks"]:
        _write(folder / "tables" / "similarity.csv", comma_separated(alike_table(contents["similarity"])))
    _write_figures(contents, folder / "figures")
    _write(folder / "index.html", page(contents))
    return folder / "index.html"


def _write_figures(contents: Mapping[str, Any], folder: Path) -> None:
    from vlprobe.report.alike_figure import alike_figure
    from vlprobe.report.figures import curves_figure, heat_figure, png_file, reliance_figure, svg_file
    from vlprobe.report.page import loss_axes
    from vlprobe.report.slopes import slopes_figure

    axes = loss_axes(contents)
    for name, task in contents["tasks"].items():
        drawn = {
            "layers": curves_figure(name, task, contents["conditions"]),
            "heat": heat_figure(name, task),
            "lost": reliance_figure(name, task, contents["conditions"], axes[task["metric"]], legend=True),
            "slopes": slopes_figure(name, task, contents["stages"], contents["conditions"], axes[task["metric"]]),
        }
        if name in contents["similarity"]["tasks"]:
            drawn["alike"] = alike_figure(name, contents["similarity"]["tasks"][name])
        for kind, figure in drawn.items():
            if figure is not None:
                path = folder / f"{task['number']:02d}-{_plain(name)}-{kind}"
                _write(path.with_name(f"{path.name}.svg"), svg_file(figure))
                _write(path.with_name(f"{path.name}.png"), png_file(figure))


def _plain(name: str) -> str:
    """Return a task's name as a file can have it; the number before it tells two apart."""
    return re.sub(r"[^\w.-]+", "-", name)[:60]


def _write(path: Path, content: str | bytes) -> None:
    try:
        with aside(path) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise unwritable("the report", path.parent, error, "--output") from error
