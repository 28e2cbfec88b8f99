"""The Ray engine, on a cluster of this machine: a worker that is killed is replaced, its job done again."""

import os
from pathlib import Path

import pytest

from test_engines import files, own_study, square
from vlprobe.engines import RayCluster, open_engine
from vlprobe.errors import BadRow, StudyError, VlprobeError

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'vlprobe[ray]'")
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        # Actors import the tests' modules, as those of a user find his own installed.
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        opened = open_engine("ray", 1, None)
        yield opened
        opened.close()


def test_jobs_are_done_once_each(engine):
    assert isinstance(engine, RayCluster)
    assert sorted(engine.map(square, list(range(20)))) == [k * k for k in range(20)]


def test_what_a_job_raises_arrives_whole(engine):
    with pytest.raises(BadRow, match="row 3: no such image") as caught:
        list(engine.map(square, ["bad"]))
    assert caught.value.problem == "no such image"


def test_a_worker_that_dies_is_replaced(engine, tmp_path):
    (tmp_path / "twice").write_text("2")
    assert sorted(engine.map(square, [tmp_path / "twice", 1, 2])) == [0, 1, 4]
    (tmp_path / "always").write_text("1000")
    with pytest.raises(VlprobeError, match="a Ray worker died 4 times over one job"):
        list(engine.map(square, [tmp_path / "always"]))


def test_a_study_gives_the_same_though_a_worker_is_killed(engine, tmp_path):
    options = {"fatal": 1, "folder": str(tmp_path), "spared": os.getpid()}
    own_study(tmp_path, tmp_path / "here", options).run()
    assert not (tmp_path / "died0").exists()
    own_study(tmp_path, tmp_path / "ray", options).run(engine=engine)
    assert (tmp_path / "died0").exists()
    assert files(tmp_path / "ray") == files(tmp_path / "here")


def test_a_cluster_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def nobody(**options):
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", nobody)
    with pytest.raises(StudyError, match="no cluster answers at 10.0.0.1:6379 .nobody there.; start one first"):
        RayCluster("10.0.0.1:6379")
