"""A GPU that is not there: tensors that say they are on it, whose numbers are the processor's, and what became of them.

Mixing them with tensors of the host is the error that it is on a GPU; a batch too large for its memory raises what a
GPU raises; a copy that nobody waits for arrives when somebody does; and what the host has to wait for is counted.
"""

import weakref
from collections import Counter

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
WAITED = {"_local_scalar_dense", "equal", "nonzero", "item", "masked_select", "_unique2", "is_nonzero"}
"""Operations whose answer the host waits for."""
MOVES = {"_to_copy", "to"}
ACTIVE = []


class There(torch.Tensor):
    """A tensor on the device."""

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.held = held
        return made

    def __repr__(self):
        return f"There({self.held})"

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        # By torch's own way these would start the device.
        if function is torch.Tensor.__getitem__:
            return ACTIVE[-1].indexed(*args)
        if function is torch.Tensor.__setitem__:
            args[0].held[tree_map(held_by, args[1])] = held_by(args[2])
            return None
        if function in (torch.Tensor.tolist, torch.Tensor.numpy):
            ACTIVE[-1].waits["look"] += 1
            return function(args[0].held, *args[1:])
        if function is torch.Tensor.contiguous:
            function, kwargs = torch.clone, {"memory_format": torch.contiguous_format}
        elif function is torch.Tensor.__invert__:
            function = torch.bitwise_not
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        found = function(*tree_map(held_by, args), **tree_map(held_by, kwargs or {}))
        return tree_map(lambda one: There(one) if isinstance(one, torch.Tensor) else one, found)


class Accelerator(TorchDispatchMode):
    """Runs what is on the device, counts what is waited for, and has so much memory.

    Args:
        room: bytes that tensors on the device may have together, beside weights; more raise an error.
        error: which.
    """

    def __init__(self, room=1 << 60, error=None):
        super().__init__()
        self.room, self.error = room, error or torch.OutOfMemoryError("CUDA out of memory.")
        self.waits, self.downloads, self.underway = Counter(), 0, []
        self.taken, self.most, self.alive = 0, 0, {}

    def take(self, encoder):
        """Put an encoder's networks on the device."""
        with torch.inference_mode():
            for network in [one for one in vars(encoder).values() if isinstance(one, nn.Module)]:
                for module in network.modules():
                    for name, one in module._parameters.items():
                        if one is not None and not isinstance(one, There):
                            module._parameters[name] = nn.Parameter(There(one.data), requires_grad=False)
                    for name, one in module._buffers.items():
                        if one is not None and not isinstance(one, There):
                            module._buffers[name] = There(one)
        encoder.device = DEVICE

    def __enter__(self):
        ACTIVE.append(self)
        self._before = torch.cuda._initialized, torch.tensor, torch.cuda.current_stream, torch.cuda.empty_cache
        torch.cuda._initialized, torch.tensor = True, _tensor
        torch.cuda.current_stream, torch.cuda.empty_cache = lambda device: Stream(self, device), lambda: None
        return super().__enter__()

    def __exit__(self, *error):
        torch.cuda._initialized, torch.tensor, torch.cuda.current_stream, torch.cuda.empty_cache = self._before
        ACTIVE.pop()
        return super().__exit__(*error)

    def indexed(self, tensor, index):
        """Return part of a tensor."""
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in parts):
            self.waits["index by truth"] += 1
        if any(isinstance(one, (list, np.ndarray)) or type(one) is torch.Tensor for one in parts):
            self.waits["index by what is on the host"] += 1
        return self._there(tensor.held[tree_map(held_by, index)])

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        on = any(isinstance(one, There) for one in tensors)
        target = next((one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.device)), None)
        args, kwargs = tree_map(_on_the_host, (args, kwargs or {}))
        self._look(name, tensors, on)
        found = function(*tree_map(held_by, args), **tree_map(held_by, kwargs))
        if name == "copy_":
            return args[0]
        stays = on if target is None else target.type == DEVICE.type
        if name in MOVES and stays != on:
            found = self._moved(found.clone(), stays, True in (*args[2:], kwargs.get("non_blocking")))
        if not stays:
            return found
        for one in args:
            if isinstance(one, There) and found is one.held:  # done in place
                return one
        return tree_map(lambda one: self._there(one) if isinstance(one, torch.Tensor) else one, found)

    def _look(self, name, tensors, on):
        """Refuse what a GPU refuses, and count what is waited for."""
        here = [one for one in tensors if not isinstance(one, There) and one.ndim]
        if on and here and name not in MOVES:
            if name != "copy_" and not name.startswith("index"):
                raise RuntimeError(f"{name}: tensors on {DEVICE} and on cpu")
            self.waits[f"{name} of what is on the host"] += 1
        truth = name.startswith("index") and any(one.dtype == torch.bool for one in tensors[1:])
        if on and (name in WAITED or truth):
            self.waits[name] += 1

    def _moved(self, found, up, asked_not_to_wait):
        """Return what arrives; on the host, where nobody waited, only once somebody does."""
        if not asked_not_to_wait:
            self.waits["upload" if up else "download"] += 1
        elif not up:
            self.downloads += 1
            arriving = torch.full_like(found, torch.nan)
            self.underway.append((arriving, found))
            return arriving
        return found

    def _there(self, tensor):
        """Return a tensor on the device, if there is room."""
        if isinstance(tensor, There):
            return tensor
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            if self.taken + size > self.room:
                raise type(self.error)(*self.error.args)  # which holds on to nothing
            self.taken += size
            self.most = max(self.most, self.taken)
        self.alive[key] = self.alive.get(key, 0) + 1
        made = There(tensor)
        weakref.finalize(made, self._gone, key, size)
        return made

    def _gone(self, key, size):
        self.alive[key] -= 1
        if not self.alive[key]:
            del self.alive[key]
            self.taken -= size


class Stream:
    """What a device does, in its order."""

    def __init__(self, accelerator, device):
        assert device == DEVICE, "the stream of another device"
        self.accelerator = accelerator

    def record_event(self):
        """Mark what was begun."""
        return Event(self.accelerator.underway)


class Event:
    """When it has come, what was begun before is there."""

    def __init__(self, underway):
        self.underway, self.before = underway, list(underway)

    def synchronize(self):
        """Wait for it."""
        for arriving, found in self.before:
            arriving.copy_(found)
        self.underway[:] = [one for one in self.underway if not any(one is done for done in self.before)]


def _tensor(data, device=None, make=torch.tensor, **kwargs):
    made = make(tree_map(held_by, data), **kwargs)
    return made if device is None else made.to(device)


def _on_the_host(one):
    return torch.device("cpu") if isinstance(one, torch.device) else one


def held_by(one):
    """Return the numbers of a tensor on the device; anything else as it is."""
    return one.held if isinstance(one, There) else one
