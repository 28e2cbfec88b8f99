"""What tests of several files ask for by name."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def cache_of_the_file(tmp_path_factory):
    """Nothing is read from, or left in, the caches of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def cache_of_the_test(tmp_path_factory, monkeypatch):
    """What one test computed must not save another the work."""
    monkeypatch.setenv("VLPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def one_thread():
    """Networks this small only wait for a second thread, for minutes where other processes have the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
