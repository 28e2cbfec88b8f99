"""What tests of several files ask for by name."""

import pytest


@pytest.fixture
def one_thread():
    """Networks this small only wait for a second thread, for minutes where other processes have the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
