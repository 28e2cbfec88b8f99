"""Engines: the same results wherever models run; a worker that dies is replaced."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from test_study import study
from toys import Toy, colour_task
from vlprobe.engines import DEATHS, Here, Processes, open_engine
from vlprobe.errors import BadRow, DataError, StudyError, VlprobeError
from vlprobe.study import Study

OWN = """
import os, signal
from pathlib import Path
import sys
sys.path.insert(0, {tests!r})
from toys import Toy

class Mine(Toy):
    def __init__(self, fatal=0, folder=".", spared=0):
        super().__init__()
        self.fatal, self.folder, self.spared = fatal, folder, spared

    def encode(self, batch):
        marks = [Path(self.folder) / f"died{{k}}" for k in range(self.fatal)]
        for mark in marks:
            if os.getpid() != self.spared and not mark.exists():  # not where the study loads it
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(batch)
"""


def square(job):
    if job == "bad":
        raise BadRow("a.csv, row 3", "no such image")
    if job == "stopped":
        os.kill(os.getpid(), signal.SIGINT)
    if isinstance(job, Path):  # dies as often as it is told to
        left = int(job.read_text())
        if left:
            job.write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return 0
    return job * job


def lasting(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(600)


@pytest.fixture
def processes():
    engine = Processes(2)
    yield engine
    engine.close()


def test_jobs_are_done_once_each(processes):
    assert list(Here().map(square, [1, 2, 3])) == [1, 4, 9]
    assert sorted(processes.map(square, list(range(20)))) == [k * k for k in range(20)]
    assert list(processes.map(square, [])) == []


def test_a_worker_that_dies_is_replaced(processes, tmp_path):
    (tmp_path / "twice").write_text("2")
    assert sorted(processes.map(square, [tmp_path / "twice", 1, 2, 3])) == [0, 1, 4, 9]
    (tmp_path / "always").write_text("1000")
    with pytest.raises(VlprobeError, match=f"{DEATHS + 1} worker processes died one after the other"):
        list(processes.map(square, [tmp_path / "always"]))


def test_a_worker_that_is_interrupted_says_nothing(processes, capfd):
    with pytest.raises(VlprobeError, match="worker processes died"):
        list(processes.map(square, ["stopped"]))
    assert "Traceback" not in capfd.readouterr().err


def alive(number):
    """Say whether a process runs: not one that has ended, and whose end nobody has asked for yet."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="nobody says which processes run")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_run_that_is_stopped(tmp_path, number):
    """Also where it alone is told to stop, in the middle of jobs that take longer than a scheduler waits."""
    code = "import contextlib, pathlib, signal, sys, vlprobe.engines as e, test_engines as t\n"
    code += "signal.signal(signal.SIGTERM, signal.default_int_handler); folder = pathlib.Path(sys.argv[1])\n"
    code += "with contextlib.closing(e.Processes(2)) as engine: list(engine.map(t.lasting, [folder] * 2))"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    told = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    running = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=told, stderr=subprocess.DEVNULL)
    while len(workers := [int(path.name) for path in tmp_path.iterdir()]) < 2:
        assert running.poll() is None
        time.sleep(0.1)
    every = [running.pid, *workers]
    assert all(map(alive, every))
    running.send_signal(number)
    until = time.monotonic() + 60
    while any(map(alive, every)) and time.monotonic() < until:
        time.sleep(0.1)
    left = [each for each in every if alive(each)]
    for each in left:
        os.kill(each, signal.SIGKILL)
    running.wait()
    assert not left


def test_what_a_job_raises_arrives_whole(processes):
    with pytest.raises(BadRow, match="row 3: no such image") as caught:
        list(processes.map(square, ["bad"]))
    assert (caught.value.place, caught.value.problem) == ("a.csv, row 3", "no such image")
    error = DataError("broken")
    error.add_note("while testing")
    assert str(pickle.loads(pickle.dumps(error))) == "broken\n  while testing"


def test_engines_are_chosen_by_name(monkeypatch):
    assert isinstance(open_engine(None, None, None), Here)
    assert isinstance(open_engine(None, 1, None), Here)
    assert open_engine(None, 3, None).workers == 3
    with pytest.raises(StudyError, match="unknown engine 'slurm'; known: ray"):
        open_engine("slurm", None, None)
    with pytest.raises(StudyError, match="add --engine ray"):
        open_engine(None, 2, "auto")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StudyError, match=r"pip install 'vlprobe\[ray\]'"):
        open_engine("ray", None, None)


def files(folder):
    """Return name -> bytes of all that a run computes."""
    kept = [*folder.rglob("*.safetensors"), *folder.rglob("*.npz"), folder / "findings.json"]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in kept}
    return found | {"results": sorted((folder / "results.jsonl").read_bytes().splitlines())}


def test_parts_are_of_the_same_jobs_though_one_model_is_done_before_the_last_of_them_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("vlprobe.extraction.passes.CHUNK", 20)

    def array(*models):
        return study(tmp_path, list(models), [colour_task(60)], conditions=["matched"])

    array(Toy("one"), Toy("two")).represent((1, 2))
    array(Toy("one")).represent((1, 1))
    array(Toy("one"), Toy("two")).represent((2, 2))
    assert array(Toy("one"), Toy("two")).plan().forward_passes == 0


def own_study(folder, output, options=None, **settings):
    (folder / "own.py").write_text(OWN.format(tests=str(Path(__file__).parent)))
    model = {"name": "mine", "file": "own.py", "class": "Mine", "options": options or {}}
    values = {"name": "s", "models": [model], "tasks": ["z"], "store": str(output / "features"), "output": str(output)}
    opened = Study.from_settings(folder, **values, conditions=["matched", "mismatched"], **settings)
    opened._tasks = [colour_task(1100, 100)]
    return opened


def test_processes_and_job_arrays_give_the_same_as_one_process(tmp_path, processes):
    own_study(tmp_path, tmp_path / "here").run()
    wanted = files(tmp_path / "here")
    options = {"fatal": 1, "folder": str(tmp_path), "spared": os.getpid()}
    dying = own_study(tmp_path, tmp_path / "processes", options)
    found = dying.run(engine=processes)
    assert (tmp_path / "died0").exists()  # a worker died on its first batch
    plain = own_study(tmp_path, tmp_path / "here").run()
    assert [(each.layer, each.score, each.interval) for each in found] == [
        (each.layer, each.score, each.interval) for each in plain
    ]
    array = own_study(tmp_path, tmp_path / "array")
    *counts, again = [array.represent((part, 3)).inputs for part in (2, 3, 1, 2)]
    assert min(counts) > 0 and again == 0
    assert array.plan().forward_passes == 0
    gathered = own_study(tmp_path, tmp_path / "array")
    gathered.run()
    assert files(tmp_path / "array") == wanted
    with pytest.raises(StudyError, match="shard 4/3: give K/N with K from 1 to N"):
        array.represent((4, 3))
