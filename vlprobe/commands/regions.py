"""`vlprobe regions`: a folder of images -> a feature file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from vlprobe.errors import StudyError


def regions(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="A folder of images.", show_default=False)],
    detector: Annotated[Path, typer.Option(help="The detector's weights.", show_default=False)],
    output: Annotated[Path, typer.Option(help="The feature file; one that is there is added to.", show_default=False)],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="lxmert-tsv, butd-tsv, uniter-npz, uniter-lmdb, uniter-lmdb-compressed, volta-h5; by the output's "
            "ending if not given.",
            show_default=False,
        ),
    ] = None,
    conventions: Annotated[
        str | None, typer.Option(help="How the detector is run: caffe, detectron2, hf.", show_default=False)
    ] = None,
    boxes: Annotated[
        str | None, typer.Option(help="Boxes of an image: 36 (LXMERT), 10:100 (UNITER).", show_default=False)
    ] = None,
    given: Annotated[
        Path | None,
        typer.Option(
            help="Features of given boxes: a file of JSON lines with image (a name) and boxes (lists of x1, y1, x2, "
            "y2 in pixels).",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, auto.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Images at a time.", min=1)] = 8,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave damaged images out and count them.")] = False,
) -> None:
    """Compute the region features of images with a detector. What is in the output is not computed again."""
    from vlprobe.regions import open_detector
    from vlprobe.regions.extraction import extract_regions
    from vlprobe.regions.formats import format_of

    layout, limits = format_of(output, form), box_limits(boxes)
    opened = open_detector(detector, conventions=conventions, boxes=limits, device=device)
    made = extract_regions(images, opened, output, layout, batch_size, progress=True, given=given, skip_bad=skip_bad)
    typer.echo(f"{made.done:,} images written, {made.skipped:,} were there. Output: {output} ({layout})")
    if made.bad:
        typer.echo(f"{len(made.bad):,} images left out:")
        for line in made.bad[:20]:
            typer.echo(f"  {line}")
        if len(made.bad) > 20:
            typer.echo(f"  and {len(made.bad) - 20:,} more")


def box_limits(text: str | None) -> tuple[int, int] | None:
    """Return (fewest, most) from `36` or `10:100`.

    Raises:
        StudyError: neither.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})(?::([0-9]{1,6}))?", text.strip())
    fewest, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= fewest <= most:
        raise StudyError(f"--boxes {text!r}: expected a number, as 36, or the fewest and the most, as 10:100")
    return fewest, most
