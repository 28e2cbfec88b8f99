"""Findings in words: one plain sentence each, with effect, interval and corrected p.

What was not found is never said not to be there: the sentence says how large a difference may have gone unseen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from vlprobe.findings.answers import Answer
from vlprobe.findings.compared import Compared
from vlprobe.findings.verdicts import SIDES

METRICS = {"accuracy": "accuracy", "r2": "R²"}
BASES = {"accuracy": "the majority class", "r2": "the mean"}
"""What the control `majority` answers."""

WORDS = {"bag-of-words": "a bag of words", "n-grams": "a bag of n-grams"}
"""What the control `words` is called."""

CLAIMS = {
    "majority": ("{a} knows more than {base}", "{a} is below {base}",
                 "{a} is not shown to differ from {base}"),
    "shuffled-labels": ("{a} knows more than a probe trained on shuffled labels",
                        "{a} is below a probe trained on shuffled labels",
                        "{a} is not shown to differ from a probe trained on shuffled labels"),
    "words": ("{a} knows more than {words} tells", "{a} is below {words}",
              "{a} is not shown to know more than {words} tells"),
    "pixels": ("{a} knows more than raw pixels tell", "{a} is below raw pixels",
               "{a} is not shown to know more than raw pixels tell"),
    "control-task": ("the probe of {a} is selective, and does better than on random labels of types",
                     "the probe of {a} does better on random labels of types",
                     "the probe of {a} is not shown to do better than on random labels of types"),
    "layer-0": ("{a} knows more than its layer 0", "{a} knows less than its layer 0",
                "{a} is not shown to know more than its layer 0"),
    "random-init": ("{a} knows more than with random weights", "{a} knows less than with random weights",
                    "{a} is not shown to know more than with random weights"),
    "mismatched": ("{a} loses with a wrong {moved}", "{a} gains with a wrong {moved}",
                   "{a} is not shown to lose with a wrong {moved}"),
    "rest": ("with a wrong {moved}, {a} still knows more than {base}",
             "with a wrong {moved}, {a} is below {base}",
             "with a wrong {moved}, {a} is not shown to differ from {base}"),
    "text-only": ("{a} loses without any image", "{a} gains without any image",
                  "{a} is not shown to change without any image"),
    "image-only": ("{a} loses without any text", "{a} gains without any text",
                   "{a} is not shown to change without any text"),
    "stage": ("{a} knows more than {b}", "{a} knows less than {b}", "{a} is not shown to differ from {b}"),
    "stage-loss": ("{a} needs the {moved} more than {b}", "{a} needs the {moved} less than {b}",
                   "{a} is not shown to need the {moved} more or less than {b}"),
    "random": ("{a} knows more than {b}", "{a} knows less than {b}", "{a} is not shown to differ from {b}"),
}  # fmt: skip
"""Kind -> what is said where the first was shown to be better, where worse, and where neither was shown."""


def sentence(test: Compared) -> str:
    """Return what one comparison found, as one sentence."""
    first, second, found = test.first, test.second, test.comparison
    claim = CLAIMS[test.kind][{1: 0, -1: 1, 0: 2}[test.sign]]
    words = WORDS.get(second.words, "")
    said = claim.format(
        a=name(first), b=name(second), moved=SIDES[first.level][1], base=BASES[first.metric], words=words
    )
    one, other = found.scores
    against = f" ({layer_of(test)})" if layer_of(test) else ""
    numbers = f"{METRICS[first.metric]} {one:.3f} ({first.layer}) against {other:.3f}{against}"
    if test.wrong:
        layers = [f"{own.layer}, {wrong.layer}" for own, wrong in zip((first, second), test.wrong, strict=True)]
        costs = f"a wrong {SIDES[first.level][1]} costs {one:.3f} of {METRICS[first.metric]}"
        numbers = f"{costs} ({layers[0]}) against {other:.3f} ({layers[1]})"
    text = f"{first.task}: {said}: {numbers}, {effect(test)}"
    if found.n < test.asked:
        text += f", on the {found.n} of {test.asked} items that both answered"
    return f"{text}." if test.sign else f"{text}; {unseen(test)}."


def layer_of(test: Compared) -> str:
    """Return the layer of the second of two that are compared; empty where it looks at none."""
    return test.second.layers.get(test.control, "") if test.control else test.second.layer


def name(answer: Answer) -> str:
    """Return a model's name, and its stage where that is news."""
    known = answer.stage == "pretrained" or answer.stage in answer.model
    return answer.model if known else f"{answer.model} ({answer.stage})"


def effect(test: Compared) -> str:
    """Return a difference with its interval and corrected p."""
    low, high = test.comparison.interval
    p = "p < 0.0001" if test.corrected < 0.0001 else f"p = {test.corrected:.2g}"
    return f"{test.comparison.difference:+.3f} [{low:+.3f}, {high:+.3f}], corrected {p}"


def unseen(test: Compared) -> str:
    """Return how large a difference may have gone unseen."""
    if math.isnan(test.comparison.smallest):
        return "this test part is too small to tell"
    return f"less than {test.comparison.smallest:.3f} may go unseen"


def unseeing_sentence(matched: Answer) -> str:
    """Return that a model does not read what a mismatch replaces."""
    side = SIDES[matched.level][1]
    return f"{matched.task}: {name(matched)} does not see the {side}: matched and mismatched are one input to it."


def verdict_sentence(verdict: str, tests: Mapping[str, Compared]) -> str:
    """Return where a model takes the target from, with the numbers that say so.

    Args:
        verdict: one of `VERDICTS`.
        tests: kind -> comparison, as for `verdict`.
    """
    majority, loss, rest = tests["majority"], tests.get("mismatched"), tests.get("rest")
    answer, moved = majority.first, SIDES[majority.first.level][1]
    who, numbers = f"{answer.task}: {name(answer)}", _numbers(majority, rest, moved)
    if verdict == "not at all":
        return f"{who} is not shown to know it: {numbers}: {effect(majority)}; {unseen(majority)}."
    if loss is None or rest is None:
        return f"{who} takes it {verdict}: {numbers}: {effect(majority)}; it does not see the {moved}."
    if verdict == "undecided":
        doubts = f"neither a loss ({unseen(loss)}) nor a rest ({unseen(rest)}) is shown"
        return f"{who} knows it, from where is not shown: {numbers}; {doubts}."
    cost = f"a wrong {moved} costs {effect(loss).removeprefix('+')}"
    if verdict == "from both":
        return f"{who} takes it from both: {numbers}; {cost}, and leaves {effect(rest)}."
    if verdict == f"from the {moved}":
        return f"{who} takes it {verdict}: {numbers}; {cost}; no rest is shown ({unseen(rest)})."
    left = f"a wrong {moved} leaves {effect(rest)}"
    return f"{who} takes it {verdict}: {numbers}; {left}; no loss is shown ({unseen(loss)})."


def _numbers(majority: Compared, rest: Compared | None, moved: str) -> str:
    """Return the scores that a verdict is made from."""
    text = f"{METRICS[majority.first.metric]} {majority.comparison.scores[0]:.3f}"
    if rest:
        text += f", with a wrong {moved} {rest.comparison.scores[0]:.3f}"
    return f"{text}, {BASES[majority.first.metric]} {majority.comparison.scores[1]:.3f}"
