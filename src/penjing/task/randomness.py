"""Random states, modes and buffers: taken, put back, kept by what only looks at a network."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def random_state(*loaders: Any) -> dict[str, Any]:
    """Random states of torch, CUDA, Python, numpy and the generators of `loaders`.

    Args:
        *loaders: Data loaders whose own generators belong to the state; anything else is passed by.

    Returns:
        Numbers and tensors only, so that `torch.load(weights_only=True)` reads it back.
    """
    legacy: Any = np.random.get_state()  # the global state that transforms of images still use
    name, keys, position, has_gauss, gauss = legacy
    on_cuda = torch.cuda.is_initialized()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if on_cuda else [],
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "generators": [generator.get_state() for generator in _generators(loaders)],
    }


def set_random_state(state: dict[str, Any], *loaders: Any) -> None:
    """Put back what `random_state` took, with the same loaders."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, words, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), position, has_gauss, cached))
    for generator, value in zip(_generators(loaders), state["generators"], strict=True):
        generator.set_state(value)


def seed_all(seed: int) -> None:
    """Set the random states of torch, CUDA, Python and numpy, which takes 32 bits of the seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def random_kept(*loaders: Any) -> Iterator[None]:
    """Every random state afterwards as before, also after an error."""
    state = random_state(*loaders)
    try:
        yield
    finally:
        set_random_state(state, *loaders)


def _generators(loaders: tuple[Any, ...]) -> list[torch.Generator]:
    """The loaders' own generators, each once, in a stable order."""
    paths = (("generator",), ("sampler", "generator"), ("batch_sampler", "sampler", "generator"))
    found: list[torch.Generator] = []
    for loader in loaders:
        for path in paths:
            value = loader
            for name in path:
                value = getattr(value, name, None)
            if isinstance(value, torch.Generator) and not any(value is g for g in found):
                found.append(value)
    return found


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode inside; every submodule's own mode and buffers afterwards, also after an error."""
    with modes_kept(*models), buffers_kept(*models):
        for model in models:
            model.eval()
        yield


@contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Every submodule's train/eval mode afterwards as before, also after an error."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def buffers_kept(*models: nn.Module) -> Iterator[None]:
    """Every buffer afterwards as before, where a forward counts its calls or keeps an average."""
    kept = [
        (module, name, buffer, buffer.clone(), _version(buffer))
        for model in models
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    try:
        yield
    finally:
        for module, name, buffer, value, version in kept:
            module._buffers[name] = buffer
            if _version(buffer) != version:
                with torch.no_grad():
                    buffer.copy_(value)


def _version(tensor: Tensor) -> int:
    """Counts the writes to a tensor; tensors of inference mode refuse them, and to count."""
    return 0 if tensor.is_inference() else tensor._version


def device_of(model: nn.Module) -> torch.device:
    """Device of the network's first parameter or buffer; the CPU when it has none."""
    tensors: list[Tensor] = [*_first(model.parameters()), *_first(model.buffers())]
    return tensors[0].device if tensors else torch.device("cpu")


def _first(tensors: Iterator[Tensor]) -> list[Tensor]:
    return [tensor for tensor, _ in zip(tensors, range(1), strict=False)]
