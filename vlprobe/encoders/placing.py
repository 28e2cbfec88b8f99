"""Networks too large for one GPU: weights of 16, 8 or 4 bits, or spread over several GPUs."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
import transformers

from vlprobe.device import WORKER
from vlprobe.encoders.checkpoint import HALF, Checkpoint
from vlprobe.errors import StudyError

INSTALL = "pip install 'vlprobe[large]'"


def placement(checkpoint: Checkpoint, device: torch.device) -> dict[str, Any]:
    """Return what transformers is told of where a network's weights go; nothing: they are moved when all are read.

    Weights of 4 and 8 bits are bitsandbytes' (Dettmers et al. 2022, LLM.int8; 2023, NF4), of 16 see `narrow`. What is
    no matrix stays float32, and so does all that is computed, but for the products with weights of 8 bits, which are
    float16 and int8.

    Args:
        checkpoint: how many bits its weights are to have, and whether they are to be spread.
        device: where it is to run.

    Raises:
        StudyError: no GPU, a library is not installed, random weights, or several processes that share the GPUs.
    """
    bits, spread = checkpoint.bits, checkpoint.spread
    if bits is None and not spread:
        return {}
    asked = f"bits: {bits}" if bits else "spread: true"
    if checkpoint.random:
        raise StudyError(f"{checkpoint.source}: `{asked}` does not go with random weights, which are drawn in full")
    if bits == HALF:
        if not spread:
            return {}
        bits, asked = None, "spread: true"
    if device.type != "cuda":
        raise StudyError(
            f"{checkpoint.source}: `{asked}` takes an NVIDIA GPU, and the model is to run on {device.type}; "
            "leave it out"
        )
    for package in ("accelerate", *(["bitsandbytes"] if bits else [])):
        if importlib.util.find_spec(package) is None:
            raise StudyError(f"{checkpoint.source}: `{asked}` takes {package}, which is not installed: {INSTALL}")
    if spread and WORKER in os.environ:
        raise StudyError(
            f"{checkpoint.source}: `spread: true` takes all GPUs of the machine, and several processes share them; "
            "let one process run the study: --workers 1"
        )
    told: dict[str, Any] = {"device_map": "auto" if spread else {"": device}}
    if spread:
        # GPUs alone: accelerate would put what they do not hold on the processor, or on disk, and say so nowhere.
        free = {gpu: torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())}
        told["max_memory"] = {gpu: int(bytes_ * 0.85) for gpu, bytes_ in free.items()}  # the rest is for states
    if bits == 4:
        told["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    elif bits == 8:
        told["quantization_config"] = transformers.BitsAndBytesConfig(load_in_8bit=True)
    return told
