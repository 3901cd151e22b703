from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from penjing.errors import InputError
from penjing.task.batches import Batch, call, check_call, fresh, prediction, split

X, Y = torch.arange(6.0).reshape(2, 3), torch.tensor([0, 1])


@dataclass
class Sample:
    image: torch.Tensor
    labels: torch.Tensor


Pair = namedtuple("Pair", ["image", "label"])


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, Y],
        Sample(X, Y),
        Pair(X, Y),
        Batch(X, Y),
        (X.numpy(), Y.numpy()),
        (X, [0, 1]),
    ],
    ids=["tuple", "list", "dataclass", "named tuple", "batch", "arrays", "list of numbers"],
)
def test_inputs_and_labels_are_told_apart(batch):
    parts = split(batch)
    assert torch.equal(parts.inputs, X)
    assert torch.equal(parts.labels, Y)


@pytest.mark.parametrize("batch", [X, X.numpy(), (X,), (X, None)])
def test_inputs_alone_have_no_labels(batch):
    parts = split(batch)
    assert torch.equal(parts.inputs, X)
    assert parts.labels is None


@pytest.mark.parametrize("kind", [dict, UserDict])
@pytest.mark.parametrize("name", ["label", "labels"])
def test_a_dict_keeps_its_keywords_without_the_labels(kind, name):
    parts = split(kind({"ids": X, "mask": X, name: Y}))
    assert list(parts.inputs) == ["ids", "mask"]
    assert torch.equal(parts.labels, Y)


def test_several_inputs_before_the_labels_go_by_position():
    parts = split((X, X + 1, Y))
    assert [t.shape for t in parts.inputs] == [X.shape, X.shape]


def test_two_unlabelled_inputs_can_be_said_in_full():
    parts = split(((X, X + 1), None))
    assert len(parts.inputs) == 2
    assert parts.labels is None


def test_double_arrays_become_the_default_dtype():
    assert split(np.zeros((2, 3))).inputs.dtype == torch.float32


@pytest.mark.parametrize("batch", [(), [], {}, {"labels": Y}])
def test_a_batch_without_inputs_is_refused(batch):
    with pytest.raises(InputError, match="no inputs"):
        split(batch)


def test_a_batch_without_a_batch_dimension_is_refused():
    with pytest.raises(InputError, match="no tensor has a batch dimension"):
        _ = split(torch.tensor(1.0)).samples


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [(2, 2), ((2, 3), 5), ([2, 3], 5), ({"a": 2, "b": 4}, 6)],
)
def test_a_call_passes_inputs_by_position_or_keyword(inputs, expected):
    assert call(lambda a, b=0: a + b, inputs) == expected


def test_inputs_that_forward_does_not_take_are_refused_with_its_signature():
    with pytest.raises(InputError, match=r"Linear\.forward.*\['pixels'\].*transform_fn"):
        check_call(nn.Linear(3, 2), {"pixels": X})


@dataclass
class Output:
    logits: int


@pytest.mark.parametrize("outputs", [Output(3), {"logits": 3, "hidden": 4}, 3])
def test_logits_are_taken_out_of_outputs(outputs):
    assert prediction(outputs) == 3


def test_a_generator_is_refused_where_data_is_read_more_than_once():
    with pytest.raises(InputError, match="train is a generator that can be read only once"):
        fresh((b for b in [X]), "train")


def test_a_function_gives_a_fresh_generator_each_time():
    data = lambda: (b for b in [X, X])  # noqa: E731 - the shape users write
    assert [len(list(fresh(data, "train"))) for _ in range(2)] == [2, 2]


def test_a_dataset_is_refused_with_the_loader_to_write():
    dataset = torch.utils.data.TensorDataset(X, Y)
    with pytest.raises(InputError, match=r"DataLoader\(dataset, batch_size=64\)"):
        fresh(dataset, "val")


def test_what_is_no_iterable_is_refused():
    with pytest.raises(InputError, match="val is int, not an iterable"):
        fresh(3, "val")
