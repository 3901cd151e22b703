"""Trained networks with calibration and test data, as the benchmarks need them.

Selection on test data is a defect, so calibration comes from training images where there are any;
the networks that have only evaluation samples use a fixed half of them to calibrate and report on
the other half.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from record import data_folder
from schooling import restore

BATCH = 250
SCHOOLED = {
    "digits": "four speakers to train and calibrate, a fifth to validate, a sixth to report",
    "text": "the training, development and test sentences of SST-2",
}
SPLIT_SEED = 0  # of the halves of networks without training data


@dataclass(frozen=True, eq=False)
class Workload:
    """A trained network with data.

    Args:
        name: Short name.
        model: In eval mode.
        test: Inputs to report on.
        labels: Of the test inputs.
        examples: seed, samples -> inputs and labels, the first of an order drawn by the seed.
        validation: seed -> inputs and labels, the last `held` of the same order, or a part of
            its own.
        pool: Samples that are not for testing.
        held: Of these the ones that validate.
        bar: Quality bar of the reference benchmark, a share; None where there is none.
        split: How calibration and test data were separated.
        metric: "top-1" or "AUC".
    """

    name: str
    model: nn.Module
    test: Tensor
    labels: np.ndarray
    examples: Callable[[int, int], tuple[Tensor, Tensor]]
    validation: Callable[[int], tuple[Tensor, Tensor]]
    pool: int
    held: int
    bar: float | None
    split: str
    metric: str = "top-1"

    def calibration(self, seed: int, samples: int) -> Tensor:
        """Unlabelled inputs."""
        return self.examples(seed, samples)[0]

    def correct(self, model: nn.Module) -> Tensor:
        """Per test sample 1.0 where the decision is right; for `ad` the anomaly score."""
        with torch.inference_mode():
            if self.metric == "AUC":
                return torch.stack([((model(w) - w) ** 2).mean() for w in self.test])
            decided = torch.cat([model(b).argmax(1) for b in self.test.split(BATCH)])
        return (decided == torch.from_numpy(self.labels.astype(np.int64))).float()

    def dense(self) -> Tensor:
        """`correct` of the network itself, computed once."""
        return _dense(self)

    def quality(self, values: Tensor) -> float:
        """Top-1 share, or area under the ROC curve."""
        return auc(values.numpy(), self.labels) if self.metric == "AUC" else float(values.mean())


@cache
def _dense(job: Workload) -> Tensor:
    return job.correct(job.model)


def auc(score: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve by ranks."""
    rank = score.argsort().argsort()
    ones, zeros = int((labels == 1).sum()), int((labels == 0).sum())
    return float((rank[labels == 1].sum() - ones * (ones - 1) / 2) / (ones * zeros))


def load_module() -> ModuleType:
    """`load.py` of the data folder."""
    path = data_folder() / "load.py"
    spec = importlib.util.spec_from_file_location("penjing_bench_data", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} cannot be read")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def workload(name: str) -> Workload:
    """One of resnet20, resnet56, ic (MLPerf Tiny ResNet-8), vww, kws, ad, digits, text."""
    if name in SCHOOLED:
        return _schooled(name)
    data = load_module()
    if name.startswith("resnet"):
        return _cifar(
            name,
            data.cifar_resnet(int(name.removeprefix("resnet"))),
            data,
            data.prepare_cifar,
            None,
        )
    if name == "ic":
        model, _, _ = data.tiny("ic")
        return _cifar(name, model, data, _raw, 0.85)
    return _halves(name, *data.tiny(name))


def _schooled(name: str) -> Workload:
    """A network that one of the training scripts here made, with its own three parts of data."""
    script = importlib.import_module(f"train_{name}")
    data, (learn, labels) = script.data(), script.data().train
    test, wanted = data.test

    def some(seed: int, samples: int) -> tuple[Tensor, Tensor]:
        drawn = torch.randperm(len(learn), generator=torch.Generator().manual_seed(seed))[:samples]
        return learn[drawn], labels[drawn]

    held = len(data.val[0])
    return Workload(
        name, restore(script.model(), name), test, wanted.numpy(), some, lambda _: data.val,
        len(learn) + held, held, None, SCHOOLED[name],
    )  # fmt: skip


def flips_and_shifts(x: Tensor) -> Tensor:
    """Photographs flipped by chance and moved together by up to two pixels, zeros moving in."""
    flipped = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    down, right = torch.randint(0, 5, (2,)).tolist()
    padded = nn.functional.pad(flipped, (2, 2, 2, 2))
    return padded[:, :, down : down + x.shape[2], right : right + x.shape[3]].contiguous()


def raw_training_images() -> tuple[Tensor, Tensor]:
    """The training images as `ic` takes them, and their labels."""
    arrays = load_module().cifar10()
    return _raw(arrays["x_train"]), torch.from_numpy(arrays["y_train"]).long()


def _raw(images: np.ndarray) -> Tensor:
    """uint8 (N, 32, 32, 3) -> float32 (N, 3, 32, 32) in 0..255."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()


def _cifar(
    name: str, model: nn.Module, data: ModuleType, prepare: Callable, bar: float | None
) -> Workload:
    arrays = data.cifar10()

    def some(chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        return prepare(arrays["x_train"][chosen]), torch.from_numpy(
            arrays["y_train"][chosen]
        ).long()

    def order(seed: int) -> np.ndarray:
        return np.random.RandomState(seed).permutation(50000)

    return Workload(
        name, model, prepare(arrays["x_test"]), arrays["y_test"],
        lambda seed, samples: some(order(seed)[:samples]), lambda seed: some(order(seed)[-5000:]),
        50000, 5000, bar,
        "calibration: random training images without labels; reported on all 10 000 test images",
    )  # fmt: skip


def _halves(name: str, model: nn.Module, x: Tensor, y: np.ndarray) -> Workload:
    order = np.random.RandomState(SPLIT_SEED).permutation(len(x))
    mine, theirs = order[: len(x) // 2], order[len(x) // 2 :]
    if name == "ad":
        windows = x.unfold(1, 5, 1).permute(0, 1, 3, 2).reshape(len(x), -1, 640)
        pool = windows[mine].reshape(-1, 640)
        labels = torch.from_numpy(np.repeat(y[mine].astype(np.int64), len(pool) // len(mine)))
        test: Tensor = windows[theirs]
    else:
        pool, test = x[mine], x[theirs]
        labels = torch.from_numpy(y[mine].astype(np.int64))
    held = len(pool) // 5

    def some(seed: int, start: int | None, stop: int | None) -> tuple[Tensor, Tensor]:
        drawn = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[start:stop]
        return pool[drawn], labels[drawn]

    return Workload(
        name, model, test, y[theirs], lambda seed, samples: some(seed, None, samples),
        lambda seed: some(seed, -held, None), len(pool), held,
        {"vww": 0.80, "kws": 0.90, "ad": 0.85}[name],
        f"a fixed half ({len(mine)}) of the evaluation samples to calibrate, the other half "
        f"({len(theirs)}) to report",
        "AUC" if name == "ad" else "top-1",
    )  # fmt: skip
