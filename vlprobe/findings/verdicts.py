"""Where a model takes the target of a task from: one word, made from three tests."""

from __future__ import annotations

from collections.abc import Mapping

from vlprobe.findings.compared import Compared

VERDICTS = {
    "from the image": "lost with a wrong image, and nothing left is shown (vision tasks: kept with a wrong text)",
    "from the text": "kept with a wrong image, and no loss is shown (vision tasks: lost with a wrong text)",
    "from both": "less with a wrong image (vision tasks: text), and still above the majority class",
    "not at all": "not shown to be above the majority class",
    "undecided": "above the majority class; neither a loss nor a rest is shown",
}

SIDES = {"language": ("text", "image"), "multimodal": ("text", "image"), "vision": ("image", "text")}
"""Level of a task -> (the side that a mismatch leaves in place, the side that it replaces)."""


def verdict(tests: Mapping[str, Compared]) -> str:
    """Return where a target is taken from: one of `VERDICTS`; empty where the tests do not tell.

    Args:
        tests: kind -> comparison, of one model on one task: `majority`; `mismatched` and `rest` where the model sees
            what a mismatch replaces, neither where it does not.
    """
    kept, moved = SIDES[tests["majority"].first.level]
    if tests["majority"].sign <= 0:
        return "not at all"
    if "mismatched" not in tests:
        return f"from the {kept}"
    rest = tests["rest"].sign > 0
    if tests["mismatched"].sign > 0:
        return "from both" if rest else f"from the {moved}"
    return f"from the {kept}" if rest else "undecided"
