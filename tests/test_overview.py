"""One table for all tasks and models: what a cell says."""

import io

import pytest
from rich.console import Console

from vlprobe.report.overview import print_overview


def task(level, cells, verdicts):
    rows = {model: {name: {"score": score} for name, score in scores.items()} for model, scores in cells.items()}
    said = {model: {"verdict": verdict, "unseen": False, "differs": False} for model, verdict in verdicts.items()}
    return {"level": level, "rows": rows, "verdicts": said}


SUMMARY = {
    "color": task(
        "multimodal",
        {"uniter (vqa)": {"matched": 0.996, "mismatched": 0.104}, "bert [x] (a)": {"matched": 0.1, "mismatched": 0.1}},
        {"uniter (vqa)": "from the image", "bert [x] (a)": "not at all"},
    ),
    "object-count": task(
        "vision",
        {"uniter (vqa)": {"matched": -0.012, "mismatched": float("nan")}},
        {"uniter (vqa)": "from both"},
    ),
}


def printed(summary):
    out = io.StringIO()
    print_overview(summary, Console(file=out, width=100, color_system=None))
    return out.getvalue()


def test_cells_say_where_from_and_what_is_left():
    lines = printed(SUMMARY).splitlines()
    first = next(i for i, line in enumerate(lines) if line.split()[:1] == ["color"])
    assert lines[first].split() == ["color", "image", "no"]
    assert lines[first + 1].split() == ["1.00", "→", ".10", ".10", "→", ".10"]
    assert lines[first + 2].split() == ["object-count", "both", "-"]  # the text model was not asked
    assert lines[first + 3].split() == ["-.01", "→", "none"]
    assert any("bert [x]" in line for line in lines)  # a name is no markup


def test_the_table_is_told_in_words():
    text = printed(SUMMARY)
    words = text[text.index("In words, the answer is taken") :].splitlines()[1:]
    assert [line.split(maxsplit=1) for line in map(str.strip, words) if line] == [
        ["color", "from the image by uniter; not at all by bert [x]"],
        ["object-count", "from both by uniter"],
    ]


@pytest.mark.parametrize(
    "few", [{}, {"color": SUMMARY["color"] | {"verdicts": {}}}, {"object-count": SUMMARY["object-count"]}]
)
def test_nothing_where_the_tables_say_as_much(few):
    assert printed(few) == ""
