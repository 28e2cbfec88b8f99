"""Where the disk does not hold the representations, they go by once: the same probe as of features that are kept."""

import json
import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from test_engines import files, own_study
from test_study import study
from toys import Toy, colour_task
from vlprobe import run
from vlprobe.cells import Layers
from vlprobe.errors import BadRow, DataError
from vlprobe.findings import read_findings
from vlprobe.listening import Layer
from vlprobe.probes.linear import Ridge
from vlprobe.probes.streaming import stream_discriminant, stream_ridge
from vlprobe.report.contents import read_contents
from vlprobe.report.figures import curves_figure, heat_figure
from vlprobe.report.page import page
from vlprobe.report.summary import summarise
from vlprobe.report.tables import long_table, main_table, markdown
from vlprobe.report.terminal import print_tables
from vlprobe.run import Part
from vlprobe.similarity.alike import read_similarity
from vlprobe.streams import passing
from vlprobe.types import Example, Task

CONDITIONS = ["matched", "mismatched", "matched>mismatched"]


@pytest.fixture
def full(monkeypatch):
    """A disk that has less room than the representations take, and enough for their statistics."""
    monkeypatch.setattr("vlprobe.estimate.free_space", lambda folder: 100_000)


def numbers_task():
    examples = tuple(
        Example(f"n{i}", f"g{i}", f"text {i}", e.image, (float(sum(e.image[40:60]) % 97) + i % 7,), (), (), f"row {i}")
        for i, e in enumerate(colour_task().splits["all"])
    )
    return Task("number", "vision", "input", (), {"all": examples})


def probed(results):
    return {(r.task, r.condition, r.layer, r.control): r for r in results if r.layer}


def test_a_study_that_the_disk_does_not_hold_is_finished(tmp_path, full):
    settings = {"tasks": [colour_task(600)], "conditions": CONDITIONS, "controls": ["shuffled-labels", "pixels"]}
    opened = study(tmp_path, **settings)
    plan = opened.plan()
    assert plan.streaming and plan.feature_bytes == 0 and 0 < plan.statistics < 100_000
    assert re.search("the representations take .* GB of room: they are not kept. streaming-lda", plan.notes[0])
    results = opened.run()
    assert len(opened.toys[0].seen) == plan.forward_passes
    found = probed(results)
    assert {r.probe for r in found.values()} == {"streaming-lda"} and {r.metric for r in found.values()} == {"accuracy"}
    assert found["colour", "matched", "joint.1", ""].score > 0.95
    for condition in ("mismatched", "matched>mismatched"):
        assert abs(found["colour", condition, "joint.1", ""].score - 0.25) < 0.15
    assert abs(found["colour", "matched", "joint.1", "shuffled-labels"].score - 0.25) < 0.15
    assert not any(path.is_file() for path in (tmp_path / "features" / "streams").rglob("*"))
    assert sum(path.stat().st_size for path in (tmp_path / "features").rglob("*.safetensors")) < 5_000
    again = study(tmp_path, **settings)
    assert again.plan().probes == 0 and again.plan().forward_passes == 0
    assert again.run() == results and not again.toys[0].seen


def test_a_plan_says_so_where_half_the_numbers_would_fit(tmp_path, monkeypatch):
    room = 10**9
    monkeypatch.setattr("vlprobe.estimate.free_space", lambda folder: room)
    settings = {"tasks": [colour_task(600)], "conditions": CONDITIONS}
    size = study(tmp_path, **settings).plan().feature_bytes
    assert size == (600 + 600) * (8 + 16) * 4  # matched and mismatched; a word task has no pooler
    said = f"As `dtype: float16` they would take {size / 2e9:.3g} GB, for which there is room"
    room = size // 2
    assert study(tmp_path, **settings).plan().notes[0].endswith(said)
    halved = study(tmp_path, **settings, dtype="float16").plan()
    assert not halved.streaming and halved.feature_bytes == room
    room = size // 2 - 1
    for dtype in ("float32", "float16"):
        note = study(tmp_path, **settings, dtype=dtype).plan().notes[0]
        assert note.startswith("the representations take") and "float16" not in note


def test_half_the_numbers_of_all_that_a_study_asks_for(tmp_path, monkeypatch):
    """What is there in the numbers that the study has would have to be made again."""
    room = 10**9
    monkeypatch.setattr("vlprobe.estimate.free_space", lambda folder: room)
    settings = {"tasks": [colour_task(600)], "controls": []}
    study(tmp_path, conditions=["matched"], **settings).run()
    wider = study(tmp_path, conditions=["matched", "mismatched"], **settings)
    room = wider.plan().feature_bytes - 1
    assert room + 1 == 600 * (8 + 16) * 4
    plan = wider.plan()
    assert plan.streaming and "float16" not in plan.notes[0]  # all takes as much as half of it in double the numbers


@pytest.mark.parametrize("task", [colour_task, numbers_task])
@pytest.mark.parametrize("size", [1000, 60])
def test_it_is_the_probe_of_features_that_are_kept(tmp_path, monkeypatch, task, size):
    """Against the streaming fit on the stored features of the same rows, in one bucket and in several."""
    monkeypatch.setattr("vlprobe.streams.BUCKET", size)
    settings = {"tasks": [task()], "conditions": ["matched"], "controls": ["shuffled-labels"]}
    kept = study(tmp_path / "kept", **settings)
    kept.run()
    (cell,) = kept.plan().cells
    with monkeypatch.context() as patch:
        patch.setattr("vlprobe.estimate.free_space", lambda folder: 10**6)
        patch.setattr("vlprobe.plan.Plan.feature_bytes", 10**9)
        found = probed(study(tmp_path / "streamed", **settings).run())
    results = study(tmp_path / "streamed", **settings).results()
    assert {layer for _, _, layer, _ in found} == {"joint.0", "joint.1"} | ({"joint.pooler"} & set(cell.layers))
    assert {result.probe for result in found.values()} == {f"streaming-{'lda' if cell.task.classes else 'ridge'}"}
    fit = stream_discriminant if cell.task.classes else stream_ridge
    for (_, _, name, control), result in found.items():
        layer = Layer(cell.task, cell.seed, Layers(cell, kept.store()).read(name))
        train, validation, test = (layer.parts[part].X for part in ("train", "validation", "test"))
        y, held_out = layer.labels(control)
        told = results.predictions(result.key)
        if cell.task.classes and not np.ptp(train, axis=0).any():  # [CLS] at the input: the commonest class is left
            values, counts = np.unique(np.concatenate([y, held_out]), return_counts=True)
            assert set(told.predicted) == {values[counts.argmax()]}
            continue
        there = fit([(train, y)], [(validation, held_out)])
        predicted = there.probe.predict(test)
        assert told.id.tolist() == layer.parts["test"].id.tolist()
        assert result.validation == pytest.approx(there.validation, abs=1e-9)
        assert (result.n_train, result.n_test) == (len(y) + len(held_out), len(predicted))
        if cell.task.classes:
            assert told.predicted.tolist() == predicted.tolist()
        else:
            np.testing.assert_allclose(told.predicted, predicted, atol=1e-8)
            assert result.l2 == there.probe.l2 in Ridge.strengths


@contextmanager
def killed_after(count, monkeypatch):
    """A context that ends as soon as so many files of statistics are written; it gives the list of them."""
    real, done = passing.save, []

    def save(path, arrays):
        if len(done) == count:
            raise DataError("killed")
        done.append(path)
        real(path, arrays)

    with monkeypatch.context() as patch, pytest.raises(DataError, match="killed"):
        patch.setattr("vlprobe.streams.passing.save", save)
        yield done


def test_what_was_killed_goes_on_with_the_buckets_that_are_there(tmp_path, full, monkeypatch):
    monkeypatch.setattr("vlprobe.streams.BUCKET", 60)
    monkeypatch.setattr("vlprobe.estimate.free_space", lambda folder: 30_000 * 5)
    monkeypatch.setattr("vlprobe.plan.Plan.feature_bytes", 10**9)
    settings = {"controls": ["shuffled-labels"]}
    wanted = study(tmp_path / "whole", **settings).run()
    with killed_after(6, monkeypatch) as done:
        study(tmp_path / "killed", **settings).run()
    again = study(tmp_path / "killed", **settings)
    assert again.run() == wanted
    assert 0 < len(again.toys[0].seen) < 240
    assert {path.name for path in done} == {
        f"{part}-{n}-4.npz" for part in ("train", "validation") for n in range(4)
    } - {
        "validation-2-4.npz",
        "validation-3-4.npz",
    }


def test_statistics_go_also_where_a_run_was_killed_before_it_removed_them(tmp_path, full, monkeypatch):
    settings = {"tasks": [colour_task(600)], "conditions": CONDITIONS, "controls": ["shuffled-labels"]}
    with monkeypatch.context() as patch:
        patch.setattr("vlprobe.streams.fitting.shutil.rmtree", lambda *_, **__: None)
        study(tmp_path, **settings).run()
    assert list((tmp_path / "features" / "streams").rglob("*.npz"))
    study(tmp_path, **settings).run()
    assert not any(path.is_file() for path in (tmp_path / "features" / "streams").rglob("*"))


@pytest.fixture
def scarce(monkeypatch):
    """No room for representations; buckets of 60 inputs that go by in chunks of 7."""
    monkeypatch.setattr("vlprobe.streams.BUCKET", 60)
    monkeypatch.setattr("vlprobe.extraction.passes.CHUNK", 7)
    monkeypatch.setattr("vlprobe.estimate.free_space", lambda folder: 10**6)
    monkeypatch.setattr("vlprobe.plan.Plan.feature_bytes", 10**9)


def shared(folder):
    """Return a study of two models and two tasks, which have some inputs in common: 3 buckets of each part."""
    settings = {"tasks": [colour_task(), numbers_task()], "controls": ["shuffled-labels"]}
    return study(folder, [Toy(), Toy("viewer", ("image",))], **settings)


def test_tasks_of_an_array_share_the_buckets(tmp_path, scarce):
    """In any order, and as often as they like; then who gathers runs no model, and has the bits of one process."""
    shared(tmp_path / "whole").run()
    rounds = []
    for order in ((2, 3, 3, 1), (1, 2, 3), (3, 1, 2), (2,)):
        rounds.append([shared(tmp_path / "array").represent((part, 3)) for part in order])
    (first, _, again, last), *_, (done,) = rounds
    assert first.inputs and again.inputs == 0 and done == Part(0)
    assert first.waits == tuple(
        f"{name}, train: {left} of 4 buckets are not there yet" for name, left in (("toy", 3), ("viewer", 2))
    )
    assert all(
        line.split(":")[0].endswith("validation") for line in last.waits
    )  # train was complete with the last task
    assert [any(part.waits for part in each) for each in rounds] == [True, True, True, False]
    assert not (tmp_path / "array" / "results.jsonl").exists()
    inputs = sum(part.inputs for each in rounds for part in each)
    assert inputs == shared(tmp_path / "new").plan().forward_passes
    gathered = shared(tmp_path / "array")
    plan = gathered.plan()
    assert (plan.forward_passes, plan.streaming) == (0, True) and plan.probes
    gathered.run()
    assert not any(toy.seen for toy in gathered.toys)
    assert files(tmp_path / "array") == files(tmp_path / "whole")


@pytest.mark.parametrize("room", [10**6, 10**12])
def test_the_bar_of_a_task_of_an_array_counts_what_is_its_own(tmp_path, scarce, monkeypatch, room):
    monkeypatch.setattr("vlprobe.estimate.free_space", lambda folder: room)
    counted = []

    @contextmanager
    def bars(progress, inputs, probes):
        counted.append((inputs(), probes))
        yield run._Silent()

    monkeypatch.setattr("vlprobe.run._bars", bars)
    whole = shared(tmp_path).plan()
    done = [shared(tmp_path).represent((part, 3)).inputs for part in (1, 2, 3)]
    assert sum(inputs for inputs, _ in counted) == whole.forward_passes and {probes for _, probes in counted} == {0}
    assert min(done) > 0 and max(inputs for inputs, _ in counted) < whole.forward_passes
    if not whole.streaming:
        assert [inputs for inputs, _ in counted] == done


def test_who_gathers_does_what_tasks_of_an_array_have_left(tmp_path, scarce):
    shared(tmp_path / "whole").run()
    done = shared(tmp_path / "array").represent((3, 3)).inputs
    gathered = shared(tmp_path / "array")
    left, every = gathered.plan().forward_passes, shared(tmp_path / "new").plan().forward_passes
    assert 0 < done == every - left
    gathered.run()
    assert sum(len(toy.seen) for toy in gathered.toys) == left
    assert files(tmp_path / "array") == files(tmp_path / "whole")
    assert shared(tmp_path / "array").represent((1, 3)) == Part(0)  # a task that comes too late


def test_what_is_run_together_does_not_depend_on_what_is_left(tmp_path, scarce, monkeypatch):
    """A task that was killed between the files of two cells leaves the last bits as they are."""
    shared(tmp_path / "whole").run()
    with killed_after(1, monkeypatch):
        shared(tmp_path / "killed").represent((1, 1))
    assert shared(tmp_path / "killed").represent((1, 1)).inputs
    shared(tmp_path / "killed").run()
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_what_has_begun_to_go_by_goes_on_so(tmp_path, scarce, monkeypatch):
    """Tasks of an array, and who gathers, are of one mind, though there is room in the meantime."""
    first = shared(tmp_path).plan()
    shared(tmp_path).represent((1, 3))
    monkeypatch.setattr("vlprobe.estimate.free_space", lambda folder: 10**12)
    plan = shared(tmp_path).plan()
    assert plan.streaming and plan.notes[0].startswith("representations of this study have gone by already")
    assert 0 < plan.statistics < first.statistics and plan.statistics_together < first.statistics_together
    results = shared(tmp_path).run()
    assert {result.probe for result in results if result.layer} == {"streaming-lda", "streaming-ridge"}
    assert not shared(tmp_path / "other").plan().streaming
    after = shared(tmp_path).plan()  # nothing waits for its results any more, and there is room
    assert not after.streaming and after.probes and after.forward_passes


def test_engines_leave_the_same_bits(tmp_path, monkeypatch, one_thread):
    from vlprobe.engines import Processes

    monkeypatch.setattr("vlprobe.streams.BUCKET", 400)
    monkeypatch.setattr("vlprobe.estimate.free_space", lambda folder: 200_000)
    own_study(tmp_path, tmp_path / "here").run()
    engine = Processes(2)
    try:
        own_study(tmp_path, tmp_path / "there").run(engine=engine)
    finally:
        engine.close()
    here, there = (
        {k: v for k, v in files(tmp_path / each).items() if k != "findings.json"} for each in ("here", "there")
    )
    assert here == there and any("npz" in name for name in here)


def test_what_does_not_fit_at_all_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("vlprobe.estimate.free_space", lambda folder: 1000)
    with pytest.raises(DataError, match="holds neither the representations of this study nor their statistics"):
        study(tmp_path).run()
    with pytest.raises(DataError, match="holds neither"):
        study(tmp_path).represent((1, 3))
    monkeypatch.setattr("vlprobe.estimate.free_space", lambda folder: 50_000)
    both = {"models": [Toy(), Toy("other")], "tasks": [colour_task(600)], "controls": ["shuffled-labels"]}
    assert study(tmp_path, **both).plan().streaming
    with pytest.raises(DataError, match="the statistics of all models.*run without --shard, which needs room for one"):
        study(tmp_path, **both).represent((1, 3))


def test_it_is_never_passed_off_as_the_linear_probe(tmp_path, full, capsys):
    """Tables name it, no finding is of it; beside a linear probe of the same cell it is not the answer."""
    settings = {"tasks": [colour_task(600)], "conditions": CONDITIONS, "controls": ["shuffled-labels", "pixels"]}
    opened = study(tmp_path, **settings)
    results = opened.run()
    assert json.loads((tmp_path / "findings.json").read_text())["findings"] == []
    console = Console(width=200)
    print_tables(summarise(results), console)
    said = capsys.readouterr().out
    assert "streaming-lda" in said and "They are not the linear probe" in said.replace("\n", " ")
    made = read_contents(tmp_path)
    table = markdown(main_table(made))
    assert re.search(r"[01]\.\d{3} \(joint.1, streaming-lda\)", table) and "no finding is of them" in table
    assert not main_table(made).bold and not made["lacking"]
    rows = [dict(zip(long_table(made).columns, row, strict=True)) for row in long_table(made).rows]
    told = {(r["condition"], r["layer"], r["control"]): r for r in rows}
    for result in results:
        row = told[result.condition, result.layer, result.control]
        assert float(row["score"]) == result.score and row["probe"] == (result.probe if result.layer else "")
    assert len(rows) == len(results) and "They are not the linear probe" in long_table(made).caption
    assert [r["layer"] for r in rows if "best" in r["chosen"] and r["condition"] == "matched"] == ["joint.1"]
    task = made["tasks"]["colour"]
    (figure,) = curves_figure("colour", task, made["conditions"]).to_dict()["concat"]
    assert figure["title"]["text"] == "toy, streaming-lda" and '"diamond"' in json.dumps(figure)
    assert '"circle"' not in json.dumps(figure) and heat_figure("colour", task) is None  # compared with nothing
    written = page(made)
    assert "<h4>toy, streaming-lda</h4>" in written and "Hollow diamonds: streaming-lda" in written
    assert re.search(r"toy, joint.1, matched, streaming-lda: [01]\.\d{3} \[.*best on the validation part", written)
    assert "joint.1, streaming-lda" in written and "no finding is of them" in written
    assert "None: no linear probe has answered." in written and "tests of where" not in written
    assert read_similarity(tmp_path).lacking == ("colour, toy: its representations went by, and were not kept",)
    linear = study(tmp_path, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlprobe.estimate.free_space", lambda folder: 10**12)
        linear.run()
    both = summarise(linear.results().all())["colour"]["rows"]["toy (pretrained)"]["matched"]
    assert "streamed" not in both and both["layer"] == "joint.1" and "streaming-lda" in both["beside"]
    assert {each.kind for each in read_findings(tmp_path)} > {"verdict"}
    assert not read_similarity(tmp_path).lacking and "tests of where something comes from" in page(
        read_contents(tmp_path)
    )


def test_what_the_linear_probe_has_answered_stays(tmp_path, full):
    first, second = colour_task(60), replace(colour_task(1200, seed=1), name="more")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlprobe.estimate.free_space", lambda folder: 10**12)
        linear = study(tmp_path, tasks=[first]).run()
    found = json.loads((tmp_path / "findings.json").read_text())["findings"]
    both = study(tmp_path, tasks=[first, second])
    results = both.run()
    assert [result for result in results if result.task == "colour"] == linear
    assert {r.probe for r in results if r.task == "more" and r.layer} == {"streaming-lda"}
    assert json.loads((tmp_path / "findings.json").read_text())["findings"] == found != []
    assert len(both.toys[0].seen) == 1200


class Picky(Toy):
    def encode(self, batch):
        for example in batch:
            if example.id in ("e3", "e7"):
                raise BadRow(example.place, "too long")
        return super().encode(batch)


def test_rows_that_the_model_cannot_take_are_left_out_and_counted(tmp_path, full):
    settings = {"tasks": [colour_task(900)], "controls": ["shuffled-labels"]}
    with pytest.raises(BadRow, match="row [59]: too long"):
        study(tmp_path / "stopped", [Picky("picky")], **settings).run()
    results = study(tmp_path / "skipped", [Picky("picky")], bad_rows="skip", **settings).run()
    lines = json.loads((tmp_path / "skipped" / "study.json").read_text())["skipped_rows"]
    assert lines == [f"toy.csv, row {row}: too long (left out for picky)" for row in (5, 9)]
    assert {r.n_train + r.n_test for r in results if r.layer} == {898}
    assert not study(tmp_path / "skipped", [Picky("picky")], bad_rows="skip", **settings).plan().probes
