"""Arguments of the wrong kind: refused by every verb before it begins, with name, value and fix."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import penjing as pj
from penjing.errors import BudgetError, InputError, PenjingError, PlanError, StrategyError
from penjing.verbs.arguments import RULES

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
DATA = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def task() -> pj.Task:
    return pj.Task(train=[(DATA, torch.zeros(16, dtype=torch.long))], loss=F.cross_entropy)


VERBS: dict[str, Callable[..., Any]] = {
    "find_groups": lambda model=None, **how: pj.find_groups(model or net(), X, **how),
    "prune": lambda model=None, **how: pj.prune(
        model or net(), X, **{"pruning_ratio": 0.5, "calibration": [DATA], **how}
    ),
    "sparsify": lambda model=None, **how: pj.sparsify(
        model or net(), X, **{"sparsity": 0.5, "calibration": [DATA], **how}
    ),
    "quantize": lambda model=None, **how: pj.quantize(
        model or net(), X, **{"calibration": [DATA], **how}
    ),
    "prepare": lambda model=None, **how: pj.prepare(
        model or net(), X, **{"calibration": [DATA], **how}
    ),
    "shrink_like": lambda model=None, **how: pj.shrink_like(
        model or net(), X, **{"pruning_ratio": 0.5, **how}
    ),
    "compress": lambda model=None, **how: pj.compress(
        model or net(), X, **{"constraints": {"macs": "60%"}, "calibration": [DATA], **how}
    ),
    "measure": lambda model=None, **how: pj.measure(model or net(), X, **how),
    "compile": lambda model=None, **how: pj.compile(model or net(), X, **how),
    "export": lambda model=None, path="unwritten.onnx": pj.export(model or net(), X, path),
    "finetune": lambda model=None, **how: pj.finetune(
        model or net(), how.pop("task", task()), **{"teacher": None, "epochs": 1, **how}
    ),
    "train": lambda model=None, **how: pj.train(
        model or net(), how.pop("task", task()), **{"sparsity": 0.5, "epochs": 1, **how}
    ),
    "distill": lambda model=None, **how: pj.distill(
        model or net(), how.pop("teacher", net()), how.pop("task", task()), **{"epochs": 1, **how}
    ),
}

WRONG: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
    "ignored_layers": (
        (5,),
        ("compress", "prune", "sparsify", "quantize", "prepare", "shrink_like", "train"),
    ),
    "transform_fn": ((3,), ("compress", "prune", "sparsify", "quantize", "prepare")),
    "seed": (
        ("x", 1.5, 2**70),
        ("compress", "prune", "sparsify", "quantize", "finetune", "train", "distill"),
    ),
    "task": ((5, [DATA]), ("compress", "finetune", "train", "distill", "prune")),
    "teacher": ((5, [5]), ("finetune", "train", "distill")),
    "callbacks": ((5,), ("finetune", "train", "distill")),
    "epochs": (("x", 1.5, 0), ("compress", "finetune", "train", "distill")),
    "lr": (("x",), ("finetune", "train", "distill")),
    "minutes": (("x",), ("compress", "finetune", "train", "distill")),
    "optimizer": ((5,), ("finetune", "train", "distill")),
    "workdir": ((5,), ("compress", "finetune", "train", "distill")),
    "threads": ((0, "x"), ("compress", "measure", "compile")),
    "batch": ((0, "x"), ("measure", "compile")),
    "n": (("x",), ("measure",)),
    "against": ((5,), ("measure",)),
    "out": ((5,), ("compile",)),
    "name": ((5,), ("compile",)),
    "preprocessing": ((5,), ("compile",)),
    "path": ((5, None), ("export",)),
    "sparsity": (("half",), ("sparsify", "train")),
    "sparsity_dict": (([1], {"0": "x"}), ("sparsify",)),
    "sparsity_schedule": ((5,), ("train",)),
    "keep_dense": ((5,), ("sparsify", "train")),
    "layers": ((5,), ("distill",)),
    "temperature": (("x",), ("finetune",)),
    "scope": ((5, None), ("prune", "compress")),
    "weight_bits_dict": (([1],), ("quantize", "prepare")),
    "inplace": (("yes",), ("prune", "sparsify", "finetune", "train", "distill")),
}
CASES = [
    pytest.param(verb, name, value, id=f"{verb}-{name}-{value if name != 'task' else number}")
    for name, (values, verbs) in WRONG.items()
    for verb in verbs
    for number, value in enumerate(values)
]


@pytest.mark.parametrize(("verb", "name", "value"), CASES)
def test_a_wrong_kind_is_refused_by_its_name(verb: str, name: str, value: Any) -> None:
    with pytest.raises(PenjingError, match=rf"^{verb}: {name} is .*; give {RULES[name].give[:5]}"):
        VERBS[verb](**{name: value})


@pytest.mark.parametrize("verb", list(VERBS))
@pytest.mark.parametrize(
    "value", ["net.pt", nn.Linear, net().state_dict()], ids=["text", "class", "state"]
)
def test_what_is_no_network_is_refused(verb: str, value: Any) -> None:
    with pytest.raises(InputError, match=r"not an nn\.Module"):
        VERBS[verb](model=value)


def test_a_student_is_not_promised_bits_by_data_that_it_does_not_take() -> None:
    with pytest.raises(StrategyError, match=r"holds 'bits', and shrink_like looks at no data"):
        pj.shrink_like(net(), X, pruning_ratio=0.5, scope={"inner", "bits"})


PRUNE: dict[str, tuple[dict[str, Any], type[PenjingError], str]] = {
    "a ratio in words": ({"pruning_ratio": "half"}, BudgetError, "half of the units is 0.5"),
    "a ratio in percent": ({"pruning_ratio": 50}, BudgetError, "50 percent is 0.5"),
    "a ratio by layer in words": ({"pruning_ratio_dict": {"0": "x"}}, BudgetError, "share"),
    "constraints as a list": ({"constraints": ["macs"]}, BudgetError, "'macs': '50%'"),
    "a share without its sign": ({"constraints": {"macs": 0.5}}, BudgetError, "'50%'"),
    "an unknown constraint": ({"constraints": {"mac": "50%"}}, BudgetError, "known are 'macs'"),
    "a plan as text": ({"plan": "x"}, PlanError, "from_json"),
    "steps as yes": ({"iterative_steps": True}, BudgetError, "whole number of steps"),
    "no rounding as zero": ({"round_to": 0}, BudgetError, "at least 1"),
    "rounding of a kind by zero": ({"round_to": {"neurons": 0}}, BudgetError, "at least 1"),
    "an unknown repair": ({"repair": 5}, StrategyError, "least_squares"),
    "half a step": ({"iterative_steps": 1.5}, BudgetError, "whole number"),
    "no data": ({"calibration": []}, InputError, "no batches"),
    "data of another width": ({"calibration": torch.ones(16, 5)}, InputError, r"\[1, 5\]"),
    "data of another dtype": ({"calibration": [DATA.long()]}, InputError, "int64"),
    "a number for data": ({"calibration": 3}, InputError, "iterable of batches"),
    "single samples": (
        {"calibration": torch.utils.data.TensorDataset(DATA)},
        InputError,
        "DataLoader",
    ),
    "no samples": ({"calibration": [DATA[:0]]}, InputError, "no samples"),
}


@pytest.mark.parametrize(("how", "error", "said"), PRUNE.values(), ids=list(PRUNE))
def test_prune_says_what_to_give(how: dict[str, Any], error: type[PenjingError], said: str) -> None:
    if "constraints" in how or "plan" in how:
        how = {"pruning_ratio": None, **how}
    with pytest.raises(error, match=said):
        VERBS["prune"](**how)


def test_a_tensor_is_calibration_data() -> None:
    assert VERBS["prune"](calibration=DATA).report.data.choices["calibration samples"] == "16"


EXAMPLES = [None, "x", 5, (), {}, {1, 2}, (2, 4), {"y": X}, X[:0], X[:, :3], X.long()]


@pytest.mark.parametrize("example", EXAMPLES, ids=[str(i) for i in range(len(EXAMPLES))])
def test_example_inputs_of_the_wrong_kind_are_refused(example: Any) -> None:
    with pytest.raises(InputError):
        pj.find_groups(net(), example)


def test_the_signature_of_a_verb_stays() -> None:
    assert list(inspect.signature(pj.find_groups).parameters) == ["model", "example_inputs"]
