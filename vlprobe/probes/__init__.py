"""How we listen: probes by name, and the controls beside them."""

PROBES = {
    "logistic": "L2-regularised multinomial logistic regression, for classes; scored by accuracy",
    "ridge": "ridge regression, for numbers; scored by R²",
}

CONTROLS = {
    "majority": "the commonest class of train (the mean, for numbers), whatever the input",
    "shuffled-labels": "the same probe, its train and validation labels shuffled: what it finds where nothing is",
}
