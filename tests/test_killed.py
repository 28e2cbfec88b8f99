"""What is killed at any moment loses nothing: who goes on ends with the bits of who was never disturbed."""

import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_audit_command import table
from test_findings import Planted
from test_report_tables import described

from test_engines import alive, files
from test_study import study
from toys import Toy, colour_task
from vlprobe.aside import UNFINISHED
from vlprobe.cli import app
from vlprobe.engines import Processes
from vlprobe.errors import DataError
from vlprobe.report.audited import read_audit
from vlprobe.report.writing import write_report
from vlprobe.streams.files import damage

HERE = str(Path(__file__).parents[1] / "vlprobe")
MADE = (".safetensors", ".npz")
STEPS = {"open", "write", "__exit__", "replace", "link", "unlink"}
"""What Python calls while it writes a file."""


def in_a_child(run, look=lambda child: None):
    """Run a function in a process of its own, and look at it now and then; return what it leaves with."""
    child = os.fork()
    if not child:
        code = 1
        try:
            run()
            code = 0
        finally:
            os._exit(code)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        look(child)
        time.sleep(0.0005)
    return os.waitstatus_to_exitcode(ended[1])


def small(folder):
    # Without the controls on words, which take most of the time of a study as small as this, and write one file each.
    settings = {"conditions": ["matched", "mismatched"], "controls": ["shuffled-labels", "pixels"]}
    return study(folder, [Toy()], [colour_task(60, 30)], **settings)


def run_small(folder, workers):
    """Run it in one process, or with workers; return nothing, for a child has nowhere to return it to."""
    engine = Processes(workers) if workers else None
    small(folder).run(engine=engine)
    if engine:
        engine.close()


@pytest.fixture
def disk(request, monkeypatch, one_thread):
    """Small chunks, and a disk that holds the representations, or their statistics only; workers are forked.

    Else each would take seconds to import what is imported here.
    """
    monkeypatch.setattr("vlprobe.extraction.passes.CHUNK", 7)
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr("multiprocessing.get_context", lambda kind: context)
    if request.param == "scarce":
        monkeypatch.setattr("vlprobe.streams.BUCKET", 20)
        monkeypatch.setattr("vlprobe.estimate.free_space", lambda folder: 10**6)
        monkeypatch.setattr("vlprobe.plan.Plan.feature_bytes", 10**9)


def made(folder):
    """Return what is computed and there."""
    return {path for path in folder.rglob("*") if path.suffix in MADE}


def age(folder):
    """Let an hour go by for what is unfinished."""
    for path in folder.rglob("*.tmp"):
        os.utime(path, (time.time() - UNFINISHED - 60,) * 2)


def children(process):
    return [int(each) for path in Path(f"/proc/{process}/task").glob("*/children") for each in path.read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="nobody says which processes are workers")
@pytest.mark.parametrize(
    ("disk", "workers", "killed", "times"),
    [
        ("large", 0, "run", 20),
        ("large", 2, "run", 3),
        ("large", 2, "worker", 3),
        ("scarce", 2, "run", 3),
        ("scarce", 2, "worker", 3),
    ],
    indirect=["disk"],
)
def test_a_run_killed_at_any_moment_goes_on_to_the_same_bits(tmp_path, disk, workers, killed, times):
    small(tmp_path / "warm").run()
    seen = set()
    start = time.monotonic()
    assert in_a_child(lambda: small(tmp_path / "whole").run(), lambda _: seen.update(made(tmp_path / "whole"))) == 0
    total, whole = len(seen), time.monotonic() - start
    wanted = files(tmp_path / "whole")
    assert total >= 18
    draw = np.random.default_rng(0)
    stopped = set()
    for number in range(times):
        folder = tmp_path / str(number)
        # By what is done, not by the clock alone: on a busy machine, time says little of how far a run has come.
        moment = Moment(folder, int(draw.integers(0, total)), draw.uniform(0, 2 * whole / total), killed)
        left = in_a_child(lambda folder=folder: run_small(folder, workers), moment)
        assert left in ((0, -signal.SIGKILL) if killed == "run" else (0,))
        stopped.add(len(moment.seen))
        if killed == "worker":
            assert files(folder) == wanted
        moment.end()
        age(folder)
        small(folder).run()
        assert files(folder) == wanted and not list(folder.rglob("*.tmp"))
    assert len(stopped) > times // 4  # it was killed at moments that differ


class Moment:
    """Kills a run, or one of its workers, some time after so many files were there."""

    def __init__(self, folder, done, later, killed):
        self.folder, self.done, self.later, self.killed = folder, done, later, killed
        self.seen, self.reached, self.over, self.workers = set(), None, False, []

    def __call__(self, run):
        if self.over:
            return
        self.seen |= made(self.folder)  # statistics go again
        if self.reached is None and len(self.seen) >= self.done:
            self.reached = time.monotonic()
        if self.reached is not None and time.monotonic() - self.reached >= self.later:
            victims = [run] if self.killed == "run" else children(run)
            self.over = bool(victims)  # workers may not have begun yet
            self.workers = children(run)
            for victim in victims[:1]:
                os.kill(victim, signal.SIGKILL)

    def end(self):
        """Wait for the workers to end with their run."""
        until = time.monotonic() + 60
        while any(map(alive, self.workers)):
            assert time.monotonic() < until
            time.sleep(0.001)


def steps_of(run, kill=None):
    """Run a function, and end this process at one of its steps of writing.

    Returns:
        Of each step, the line of vlprobe that it came from and, where it is a call, what was called.
    """
    steps = []

    def look(frame, event, what):
        if event not in ("c_call", "c_return") or what.__name__ not in STEPS:
            return
        if len(steps) == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        while frame.f_back and not frame.f_code.co_filename.startswith(HERE):
            frame = frame.f_back
        called = frame.f_code.co_filename.startswith(HERE) and event == "c_call"
        steps.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {what.__name__ if called else ''}")

    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(None)
    return steps


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def vlprobe(*what):
    app([*map(str, what)], standalone_mode=False)


@pytest.mark.parametrize("disk", ["large", "scarce"], indirect=True)
def test_a_run_killed_at_any_step_of_writing_leaves_whole_files(tmp_path, disk):
    small(tmp_path / "whole").run()
    wanted, told = files(tmp_path / "whole"), tmp_path / "steps"
    assert in_a_child(lambda: told.write_text("\n".join(steps_of(lambda: small(tmp_path / "counted").run())))) == 0
    draw, places = np.random.default_rng(0), {}
    for number, step in enumerate(told.read_text().splitlines()):
        if step.endswith((" write", " replace", " link")):
            places.setdefault(step, []).append(number)
    assert {"shard.py", "predictions.py", "results.py"} <= {place.partition(":")[0] for place in places}
    for step in [int(draw.choice(numbers)) + 1 for numbers in places.values()]:
        folder = tmp_path / str(step)
        left = in_a_child(lambda folder=folder, kill=step: steps_of(lambda: small(folder).run(), kill))
        assert left == -signal.SIGKILL
        there = {str(path.relative_to(folder)): path.read_bytes() for path in made(folder)}
        assert {name: wanted.get(name, each) for name, each in there.items()} == there
        assert not any(damage(path) for path in folder.rglob("*.npz"))  # statistics, which are gone in the end, too
        age(folder)
        small(folder).run()
        assert files(folder) == wanted and not list(folder.rglob("*.tmp"))


@pytest.fixture
def drawn(monkeypatch):
    """Figures and a page that cost nothing to draw, and are about as long as those of a report."""
    for name in ("curves", "heat", "reliance"):
        monkeypatch.setattr(f"vlprobe.report.figures.{name}_figure", lambda name, task, *_, **__: f"{task}")
    monkeypatch.setattr("vlprobe.report.slopes.slopes_figure", lambda *_: None)
    monkeypatch.setattr("vlprobe.report.figures.svg_file", lambda figure: figure * 9)
    monkeypatch.setattr("vlprobe.report.figures.png_file", lambda figure: figure.encode() * 9)
    monkeypatch.setattr("vlprobe.report.page.page", lambda contents: f"{contents['models']}" * 9999)


def test_a_report_killed_at_any_step_leaves_whole_files_and_the_next_one_is_that_of_nobody_killed(tmp_path, drawn):
    planted = Planted(tmp_path / "results").model(0.9, 0.25)
    contents = described(planted), described(planted.model(0.9, 0.9, "reader"))
    for name, content in zip(("old", "new"), contents, strict=True):
        write_report(content, tmp_path / name)
    old, new = tree(tmp_path / "old"), tree(tmp_path / "new")
    assert len(new) > 8 and all(new[name] != old[name] for name in ("index.html", "tables/main.md"))
    report = tmp_path / "report"
    shutil.copytree(tmp_path / "old", report)
    steps = len(steps_of(lambda: write_report(contents[1], report)))
    for step in np.random.default_rng(0).permutation(steps)[:30].tolist():
        write_report(contents[0], report)
        assert tree(report) == old
        killed = in_a_child(lambda kill=step: steps_of(lambda: write_report(contents[1], report), kill))
        assert killed == -signal.SIGKILL
        there = tree(report)
        assert not [name for name in there if not name.endswith(".tmp") and there[name] not in (old[name], new[name])]
        age(report)
        write_report(contents[1], report)
        assert tree(report) == new


def test_who_only_looks_changes_nothing_be_it_killed(tmp_path, capsys, monkeypatch):
    """`compare` and `audit` print; an audit that was cut short is no audit to a report."""
    monkeypatch.chdir(tmp_path)
    for name, right in (("a", 0.5), ("b", 0.9)):
        described(Planted(tmp_path / name).model(right, 0.25))
    table("colour.csv")
    audit = tmp_path / "a" / "audit.json"
    for what in (("compare", "a", "b"), ("audit", "colour.csv", "--format", "json")):
        before = tree(tmp_path)

        def printed(what=what):
            with Path("said").open("w") as sys.stdout:
                vlprobe(*what)

        assert in_a_child(printed) == 0
        said = Path("said").read_text()
        steps = in_a_child(lambda printed=printed: os._exit(min(len(steps_of(printed)), 99)))
        assert said and steps > 3
        for step in range(0, steps, max(steps // 6, 1)):
            assert in_a_child(lambda printed=printed, kill=step: steps_of(printed, kill)) == -signal.SIGKILL
            assert said.startswith(Path("said").read_text() if Path("said").exists() else "")
            Path("said").unlink(missing_ok=True)
            assert tree(tmp_path) == before
    for cut in (0, 1, len(said) // 2, len(said) - 2):
        audit.write_text(said[:cut])
        with pytest.raises(DataError, match=r"audit.json: is no audit.*make it with `vlprobe audit"):
            read_audit(tmp_path / "a", [{"name": "colour"}])
