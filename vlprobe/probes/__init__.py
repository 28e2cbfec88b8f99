"""How we listen: probes by name, the controls beside them, and the linear probe's solver."""

from importlib import import_module
from typing import Any

PROBES = {
    "linear": "L2-regularised logistic regression for classes, scored by accuracy; ridge for numbers, by R²",
    "mlp": "one hidden layer, its epochs chosen on the validation part; scored as linear",
    "mdl": "minimum description length by online coding, for classes; scored by compression, 1 where nothing is",
    "salin2022": "the published protocol: Adam, 5 runs, best epoch on the test part, which flatters it",
}
"""What a study file can name."""

LINEAR = ("logistic", "ridge")
"""What `linear` is called in a result, as the task asks. It is the answer; any other probe stands beside it."""

STREAMING = ("streaming-lda", "streaming-ridge")
"""In a result, the probe of representations that the disk would not have held: linear discriminants for classes, ridge
for numbers. It does not answer for a model, and is not compared with the linear probe."""

CONTROLS = {
    "majority": "the commonest class of train (the mean, for numbers), whatever the input",
    "bag-of-words": "counts of the text's words, without any model; of a word among many, its form",
    "n-grams": "counts of words and pairs of neighbours; of a word among many, its form and its neighbours",
    "pixels": "a thumbnail and a colour histogram of the image, or of the region, without any model",
    "layer-0": "the same probe on the input of the first block of the stream",
    "shuffled-labels": "the same probe, its train and validation labels shuffled: what it finds where nothing is",
    "control-task": "the same probe on random labels of types: what it learns by heart; selectivity: score minus this",
    "random-init": "the same model with random weights, at its best layer; doubles the forward passes",
}
"""What a study file can name. `majority` is always there: verdicts are made of it."""

ASKED_FOR = ("random-init",)
"""Controls that cost forward passes: a study has them when it names them, or all."""

_HOMES = {
    "ClosedForm": "vlprobe.probes.ridge",
    "Fit": "vlprobe.probes.logistic",
    "Line": "vlprobe.probes.ridge",
    "fit_path": "vlprobe.probes.logistic",
    "ridge_path": "vlprobe.probes.ridge",
}
"""Name -> the module it lives in, imported when first asked for."""


def __getattr__(name: str) -> Any:
    """Return a public name, importing its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vlprobe.probes' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
