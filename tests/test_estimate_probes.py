"""How long probes will take is said from a trial of each kind."""

from types import SimpleNamespace

import numpy as np
import pytest

from test_engines import own_study
from vlprobe import estimate_probes
from vlprobe.estimate_probes import probe_seconds
from vlprobe.listening import LISTENERS


@pytest.fixture
def tried(monkeypatch):
    """What each trial listened to; by the clock, a linear probe takes 0.2 s, a network 0.6 s, whatever the rows."""
    seen, clock = [], [0.0]

    def listener(probe, seconds):
        def listen(layer):
            seen.append((probe, layer))
            clock[0] += seconds
            return {}

        return listen

    monkeypatch.setattr(estimate_probes, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(estimate_probes, "LISTENERS", {"linear": listener("linear", 0.2), "mlp": listener("mlp", 0.6)})
    return seen


def said(study):
    return probe_seconds(study.plan(), study.store(), "cpu")


def test_every_layer_and_condition_is_counted_and_each_kind_tried_once(tmp_path, tried):
    study = own_study(tmp_path, tmp_path / "out", probes=["linear", "mlp"])
    plan = study.plan()
    layers = {(cell.condition, layer) for cell in plan.cells for layer in cell.layers}
    assert said(study) == pytest.approx(len(layers) * 0.8)
    widths = {cell.model.layers[layer] for cell in plan.cells for layer in cell.layers}
    kinds = [(probe, layer.parts["test"].X.shape[1]) for probe, layer in tried]
    assert sorted(kinds) == sorted((probe, width) for probe in ("linear", "mlp") for width in widths)
    parts = tried[0][1].parts
    assert {name: len(part.X) for name, part in parts.items()} == {
        name: len(part) for name, part in plan.cells[0].parts.named().items()
    }
    assert {part.X.dtype for part in parts.values()} == {np.dtype(np.float32)}


def test_what_more_rows_take_grows_with_their_number(tmp_path, tried, monkeypatch):
    whole = said(own_study(tmp_path, tmp_path / "out"))
    monkeypatch.setattr(estimate_probes, "ROWS", 300)
    assert said(own_study(tmp_path, tmp_path / "out")) == pytest.approx(1100 / 300 * whole)
    assert sum(len(part.X) for part in tried[-1][1].parts.values()) == pytest.approx(300, abs=3)


def test_a_small_part_beside_a_large_one_is_tried_with_some_rows(tmp_path, tried, monkeypatch):
    monkeypatch.setattr(estimate_probes, "ROWS", 5)
    assert said(own_study(tmp_path, tmp_path / "out")) > 0
    assert {len(part.X) for part in tried[0][1].parts.values()} == {20}


def test_kinds_that_patience_does_not_reach_take_what_others_took(tmp_path, tried, monkeypatch):
    monkeypatch.setattr(estimate_probes, "PATIENCE", 0)
    study = own_study(tmp_path, tmp_path / "out")
    assert said(study) > 0 and len(tried) == 1


def test_results_that_are_there_are_not_counted(tmp_path):
    study = own_study(tmp_path, tmp_path / "out")
    assert said(study) > 0
    study.run()
    assert said(own_study(tmp_path, tmp_path / "out")) == 0


def test_probes_find_in_drawn_features_what_they_would_in_a_network(tmp_path, monkeypatch):
    """Classes are told apart there: a fit of noise would be another one."""
    heard = []

    def listen(layer):
        heard.append(LISTENERS["linear"](layer)[""].score)

    monkeypatch.setattr(estimate_probes, "LISTENERS", {"linear": listen})
    said(own_study(tmp_path, tmp_path / "out"))
    assert min(heard) > 0.7
