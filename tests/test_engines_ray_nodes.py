"""The Ray engine on a cluster whose nodes come and go, and that has room for fewer actors than are asked for."""

import os
import time
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
def cluster(monkeypatch):
    """A head of one core, so one actor; nodes of three have room for one more each."""
    from ray.cluster_utils import Cluster

    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setattr(engines, "LOOK", 0.5)
    opened = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
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
