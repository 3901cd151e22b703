import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from penjing.errors import InputError
from penjing.task import Calibration

X, Y = torch.arange(30.0).reshape(10, 3), torch.arange(10)


def loader(**settings):
    return DataLoader(TensorDataset(X, Y), batch_size=4, **settings)


@pytest.mark.parametrize(
    "data",
    [
        loader(),
        [X[:4], X[4:]],
        X,
        X.numpy(),
        ((x, y) for x, y in loader()),
        [{"x": X, "labels": Y}],
    ],
    ids=["loader", "list", "tensor", "array", "generator", "dicts"],
)
def test_samples_are_kept_in_order(data):
    calibration = Calibration.of(data)
    parts = [b["x"] if isinstance(b, dict) else b for b in calibration.batches(3)]
    assert torch.equal(torch.cat(parts), X)


def test_batches_have_the_size_asked_for_and_the_rest():
    assert [len(b) for b in Calibration.of(loader()).batches(3)] == [3, 3, 3, 1]


def test_inputs_and_labels_keep_the_batches_that_were_read():
    calibration = Calibration.of(loader())
    assert [len(b) for b in calibration.inputs] == [4, 4, 2]
    assert torch.equal(torch.cat(calibration.labels), Y)


def test_a_limit_cuts_the_last_batch_and_its_labels():
    calibration = Calibration.of(loader(), limit=6)
    assert calibration.samples == 6
    assert [len(labels) for labels in calibration.labels] == [4, 2]


def test_reading_stops_at_the_limit():
    def endless():
        while True:
            yield X

    assert Calibration.of(endless(), limit=25).samples == 25


def test_a_calibration_passes_through_with_a_new_limit():
    assert Calibration.of(Calibration.of(loader()), limit=5).samples == 5


def test_transform_fn_makes_the_batches():
    calibration = Calibration.of(loader(), transform_fn=lambda item: {"x": item[0] * 2})
    assert torch.equal(calibration.inputs[0]["x"], X[:4] * 2)


def test_a_shuffling_loader_gives_the_same_samples_whatever_the_random_state():
    first = Calibration.of(loader(shuffle=True))
    torch.rand(3)
    assert first.fingerprint() == Calibration.of(loader(shuffle=True)).fingerprint()


def test_the_random_state_is_not_moved():
    before = torch.get_rng_state()
    Calibration.of(loader(shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fingerprint_follows_the_content():
    assert Calibration.of(X).fingerprint() != Calibration.of(X + 1).fingerprint()


@pytest.mark.parametrize("data", [[], iter(())], ids=["list", "spent generator"])
def test_an_empty_loader_is_refused(data):
    with pytest.raises(InputError, match="no batches"):
        Calibration.of(data)


def test_a_batch_of_no_samples_is_refused():
    with pytest.raises(InputError, match="batch 1 has no samples"):
        Calibration.of([X, X[:0]])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_batch_and_sample(value):
    bad = X.clone()
    bad[7, 1] = value
    with pytest.raises(InputError, match=r"batch 1 has 1 NaN or infinite.*in sample 7"):
        Calibration.of([X, bad])


@pytest.mark.parametrize("other", [X[:, :2], X.double(), {"x": X}], ids=["shape", "dtype", "form"])
def test_batches_that_differ_are_refused(other):
    with pytest.raises(InputError, match=r"batch 1 is .* batch 0 is"):
        Calibration.of([X, other])


def test_inputs_of_different_batch_sizes_are_refused():
    with pytest.raises(InputError, match="differ in dimension 0"):
        Calibration.of([{"a": X, "b": X[:3]}])


def test_a_dataset_of_single_samples_is_refused():
    with pytest.raises(InputError, match="wrap it"):
        Calibration.of(TensorDataset(X, Y))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(InputError, match="at least 1"):
        Calibration.of(X, limit=limit)


def test_too_few_samples_are_refused_with_the_purpose():
    with pytest.raises(InputError, match="has 1 sample, a Gram matrix needs at least 20"):
        Calibration.of(X[:1]).at_least(20, "a Gram matrix")


def test_samples_do_not_carry_gradients():
    assert not Calibration.of(X.clone().requires_grad_()).inputs[0].requires_grad


def test_what_is_no_data_is_refused():
    with pytest.raises(InputError, match="calibration is int, not an iterable"):
        Calibration.of(3)
