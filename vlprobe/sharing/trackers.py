"""Experiment trackers: what a study found becomes a run for every model, by what the trackers' own documents offer."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import TypeVar

from vlprobe.errors import DataError, VlprobeError
from vlprobe.sharing.tracked import Tracked


def log(models: Iterable[Tracked], tracker: str, project: str) -> int:
    """Tell a tracker of every model, and return how many there were.

    Args:
        models: what to tell.
        tracker: one of `TRACKERS`.
        project: the tracker's project (MLflow: experiment), made where it is not there.

    Raises:
        VlprobeError: the tracker's package is not installed, or it refuses.
    """
    found = find_spec(tracker)
    if found is None or found.origin is None:  # a folder of that name, as wandb leaves behind, is no package
        raise VlprobeError(f"{tracker} is not installed: pip install 'vlprobe[{tracker}]'")
    count = 0
    for model in models:
        TRACKERS[tracker](model, project)
        count += 1
    return count


def _wandb(model: Tracked, project: str) -> None:
    import wandb

    config = dict(model.config)
    try:
        with wandb.init(project=project, name=model.name, group=model.study, job_type="vlprobe", config=config) as run:
            for index, scores in model.curves.items():
                run.log(dict(scores), step=index)
            table = wandb.Table(columns=list(model.columns), data=[list(row) for row in model.rows])
            run.log({"scores": table}, step=max(model.curves, default=0))
            run.summary.update(dict(model.summary))
    except wandb.Error as error:
        raise VlprobeError(f"Weights & Biases refused: {error} (WANDB_MODE=offline keeps runs here)") from error


Value = TypeVar("Value")
MLFLOW_PARAMS = 100
"""Params that MLflow takes at a time."""


def _mlflow(model: Tracked, project: str) -> None:
    import mlflow

    config = _plain_names(model.config)
    try:
        mlflow.set_experiment(project)
        with mlflow.start_run(run_name=model.name, tags={"vlprobe.study": model.study}):
            for start in range(0, len(config), MLFLOW_PARAMS):
                mlflow.log_params(dict(list(config.items())[start : start + MLFLOW_PARAMS]))
            for index, scores in model.curves.items():
                mlflow.log_metrics(_plain_names(scores), step=index)
            mlflow.log_metrics(_plain_names(model.summary))
            mlflow.log_text(_comma_separated(model), "scores.csv")
    except mlflow.MlflowException as error:
        raise VlprobeError(f"MLflow refused: {error}; MLFLOW_TRACKING_URI says where it is") from error


def _plain_names(named: Mapping[str, Value]) -> dict[str, Value]:
    """Return the same under names that MLflow takes: letters, digits and `_ - . : /` and blanks."""
    plain = {re.sub(r"[^\w\-. :/]", "_", name.replace(">", " to ")): value for name, value in named.items()}
    if len(plain) < len(named):
        raise DataError("the names of two tasks differ in nothing but signs that MLflow does not take; rename one")
    return plain


def _comma_separated(model: Tracked) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([model.columns, *model.rows])
    return written.getvalue()


def _trackio(model: Tracked, project: str) -> None:
    import trackio

    try:
        trackio.init(project=project, name=model.name, group=model.study, config=dict(model.config), embed=False)
    except ValueError as error:
        raise VlprobeError(f"trackio refused: {error}") from error
    try:
        for index, scores in model.curves.items():
            trackio.log(dict(scores), step=index)
        last = max(model.curves, default=0)
        table = trackio.Table(columns=list(model.columns), data=[list(row) for row in model.rows])
        trackio.log({**model.summary, "scores": table}, step=last)
    finally:
        trackio.finish()


TRACKERS: Mapping[str, Callable[[Tracked, str], None]] = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}
"""Package -> how it is told of one model."""
