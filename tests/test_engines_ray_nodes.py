"""The Ray engine on a cluster whose nodes come and go, and that has room for fewer actors than are asked for."""

import os
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest

from test_engines import files, own_study
from vlprobe import engines
from vlprobe.engines import RayCluster

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'vlprobe[ray]'")
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


@pytest.fixture
def cluster(monkeypatch, request):
    """A head of one core, so one actor; nodes of three have room for one more each. A test may give the head's own."""
    from ray.cluster_utils import Cluster

    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setattr(engines, "LOOK", 0.5)
    head = {"include_dashboard": False, "num_cpus": 1} | getattr(request, "param", {})
    opened = Cluster(initialize_head=True, head_node_args=head)
    yield opened
    ray.shutdown()
    opened.shutdown()


def node_of(job):
    """Return the job's number and the node that did it; from the tenth on, once two nodes have had one."""
    folder, number = job
    node = ray.get_runtime_context().get_node_id()
    (folder / node).touch()
    until = time.monotonic() + 120
    while number >= 10 and len(list(folder.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    return number, node


def test_nodes_may_join_and_leave(cluster, tmp_path):
    engine = RayCluster(cluster.address)
    seen, joined, left = Counter(), None, None
    done = []
    for number, node in engine.map(node_of, [(tmp_path, number) for number in range(60)]):
        done.append(number)
        seen[node] += 1
        if joined is None:
            joined = cluster.add_node(num_cpus=3)
        if left is None and len(seen) == 2:  # the next job of its actor, at the latest, is lost with it
            cluster.remove_node(joined, allow_graceful=False)
            left = joined
    engine.close()
    assert sorted(done) == list(range(60))
    assert len(seen) == 2 and left is joined


def test_a_cluster_with_room_for_fewer_workers_than_are_asked_for(cluster, tmp_path):
    own_study(tmp_path, tmp_path / "here").run()
    engine = RayCluster(cluster.address, workers=3)
    own_study(tmp_path, tmp_path / "ray").run(engine=engine)
    engine.close()
    assert files(tmp_path / "ray") == files(tmp_path / "here")


class Holder:
    """Of another program: holds a core."""

    def here(self):
        """Return once it has it."""


@pytest.fixture
def told(monkeypatch):
    """What a run says of waiting, when; and what the test wants to happen each time that it has."""
    said, then = [], []

    def show(message, *_, **__):
        if "no worker has started" in str(message):
            said.append((time.monotonic(), str(message)))
            if then:
                then.pop(0)()

    with warnings.catch_warnings():
        warnings.filterwarnings("default", "engine ray")
        monkeypatch.setattr(warnings, "showwarning", show)
        monkeypatch.setattr(engines, "TELL", 1)
        yield said, then


@pytest.mark.parametrize(
    ("cluster", "joins", "has"),
    [
        ({"num_cpus": 0}, {"num_cpus": 1}, "takes 1 CPU; the cluster has 0 CPU, 0 free."),
        (
            {"num_cpus": 0, "num_gpus": 1},
            {"num_cpus": 1, "num_gpus": 1},
            "takes 1 CPU and 1 GPU; the cluster has 0 CPU, 0 free and 1 GPU, 1 free.",
        ),
    ],
    indirect=["cluster"],
)
def test_a_cluster_no_node_of_which_can_have_a_worker_says_so_until_one_joins(cluster, told, tmp_path, joins, has):
    said, then = told
    then += [lambda: None, lambda: None, lambda: cluster.add_node(**joins)]
    engine = RayCluster(cluster.address)
    begun = time.monotonic()
    assert sorted(number for number, _ in engine.map(node_of, [(tmp_path, number) for number in range(3)])) == [0, 1, 2]
    engine.close()
    assert all(has in each and "No node has as much: it goes on once one joins" in each for _, each in said[:3])
    first, second, third = (when - begun for when, _ in said[:3])
    assert first < 20 and second > 2 * first - 0.2 and third > 2 * second - 0.2


def test_a_cluster_that_others_have_taken_says_so_until_they_end(cluster, told, tmp_path):
    said, then = told
    engine = RayCluster(cluster.address)
    holder = ray.remote(Holder).options(num_cpus=1).remote()
    ray.get(holder.here.remote())
    then += [lambda: ray.kill(holder)]
    assert sorted(number for number, _ in engine.map(node_of, [(tmp_path, number) for number in range(3)])) == [0, 1, 2]
    done = len(said)
    assert list(engine.map(node_of, [(tmp_path, 3)]))[0][0] == 3
    engine.close()
    assert done == len(said) and "takes 1 CPU; the cluster has 1 CPU, 0 free. " in said[0][1]
    assert "once other programs of the cluster end, or nodes join" in said[0][1]
