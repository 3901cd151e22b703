"""Train the small vision transformer of the benchmarks on CIFAR-10.

    python bench/train_vit.py

Learns from 45 000 training images, is judged on the other 5000 while it learns, and looks at the
test images once. The weights go to the cache folder, the accuracy to bench/results.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from encoders import VisionTransformer
from record import Record
from schooling import Data, school
from workloads import load_module

SHAPE = {"width": 96, "heads": 4, "hidden": 384, "depth": 4}
EPOCHS = 9  # that the learning rate's cycle is laid out for
LAST = 8  # behind it the rate is below 4 % of its peak
RATE = 1.5e-3
VALIDATION = 5000
SHIFT = 4  # pixels


def data() -> Data:
    """CIFAR-10, normalised, with a fixed validation part of the training images."""
    module = load_module()
    arrays = module.cifar10()
    order = np.random.RandomState(0).permutation(50000)
    x, y = module.prepare_cifar(arrays["x_train"]), torch.from_numpy(arrays["y_train"]).long()
    mine, held = torch.from_numpy(order[VALIDATION:]), torch.from_numpy(order[:VALIDATION])
    test = module.prepare_cifar(arrays["x_test"]), torch.from_numpy(arrays["y_test"]).long()
    return Data((x[mine], y[mine]), (x[held], y[held]), test, augmented)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to `SHIFT` pixels and flipped at random."""
    padded = F.pad(images, (SHIFT,) * 4)
    size = images.shape[-1]
    at = torch.randint(2 * SHIFT + 1, (2, len(images)), generator=generator)
    flip = torch.rand(len(images), generator=generator) < 0.5
    line = torch.arange(size)
    columns = torch.where(flip[:, None], line.flip(0), line) + at[1][:, None]
    rows = line + at[0][:, None]
    batch = torch.arange(len(images))[:, None, None]
    return padded.movedim(1, -1)[batch, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def main() -> None:
    """Train what is not trained yet."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = Record("networks", "How were the benchmarks' own networks trained?", "bench/train_*.py")
    if not rows.has(network="vit"):
        model = VisionTransformer(**SHAPE)
        rows.add({**school("vit", model, data(), epochs=EPOCHS, rate=RATE, last=LAST), **SHAPE})


if __name__ == "__main__":
    main()
