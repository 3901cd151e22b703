"""The graph form keeps the network's call, names and numbers, and trains like it."""

from __future__ import annotations

import copy
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from penjing.errors import CaptureError, InputError
from penjing.graph.attributes import Readings, readings
from penjing.graph.capture import capture
from penjing.graph.form import graph_form
from penjing.graph.network import Network

Pair = namedtuple("Pair", "first second")


class Trainable(nn.Module):
    """Norms, dropouts, a recurrent layer, a constant, a transient and an unused buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drops = nn.Sequential(nn.Dropout(0.3), nn.Dropout2d(0.2), nn.AlphaDropout(0.1))
        self.inorm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
        self.lstm = nn.LSTM(4, 3, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(3, 5)
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)
        self.register_buffer("unused", torch.zeros(2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.inorm(self.drops(F.relu(self.norm(self.conv(x)), inplace=True)))
        rows, _ = self.lstm(y.flatten(2).transpose(1, 2))
        return {"logits": self.head(rows[:, -1]) * torch.tensor([1.0, 2, 3, 4, 5]) * self.scale}


class Tied(nn.Module):
    """Tied weights, a plain input, a factory and casts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.out = nn.Linear(4, 10, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor, factor: float) -> Tensor:
        x = self.embed(tokens) * factor
        y = x.float() + torch.ones(4, device=tokens.device)
        result: Tensor = self.out(y.to(x.dtype))
        return result


class Nested(nn.Module):
    """Nested inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, pair: tuple[Tensor, Tensor], *, extra: dict[str, Tensor]) -> list[Any]:
        return [self.fc(pair[0]), (Pair(extra["a"], pair[1]),)]


@pytest.fixture
def image() -> Tensor:
    return torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> Trainable:
    torch.manual_seed(0)
    return Trainable()


@pytest.fixture
def form(network: Trainable) -> fx.GraphModule:
    return graph_form(capture(network, torch.randn(2, 3, 6, 6)))


def test_the_form_computes_the_same_numbers_at_another_batch_size(
    network: Trainable, form: fx.GraphModule, image: Tensor
) -> None:
    torch.testing.assert_close(form(image), network.eval()(image), rtol=0, atol=0)


def test_the_form_has_the_state_dict_of_the_network(
    network: Trainable, form: fx.GraphModule
) -> None:
    assert list(form.state_dict()) == list(network.state_dict())


def test_the_form_has_the_parameters_of_the_network(
    network: Trainable, form: fx.GraphModule
) -> None:
    assert [n for n, _ in form.named_parameters()] == [n for n, _ in network.named_parameters()]


def test_a_deep_copy_has_the_state_dict_of_the_network(
    network: Trainable, form: fx.GraphModule
) -> None:
    assert set(copy.deepcopy(form).state_dict()) == set(network.state_dict())


def test_training_mode_computes_what_the_network_computes(
    network: Trainable, form: fx.GraphModule, image: Tensor
) -> None:
    torch.manual_seed(1)
    expected = network.train()(image)
    torch.manual_seed(1)
    torch.testing.assert_close(form.train()(image), expected, rtol=0, atol=0)


def test_training_mode_moves_the_running_statistics_alike(
    network: Trainable, form: fx.GraphModule, image: Tensor
) -> None:
    torch.manual_seed(1)
    network.train()(image)
    torch.manual_seed(1)
    form.train()(image)
    torch.testing.assert_close(dict(form.state_dict()), dict(network.state_dict()), rtol=0, atol=0)


def test_gradients_are_those_of_the_network(
    network: Trainable, form: fx.GraphModule, image: Tensor
) -> None:
    network.eval()(image)["logits"].sum().backward()
    form(image)["logits"].sum().backward()
    expected = {n: p.grad for n, p in network.named_parameters()}
    assert all(
        torch.equal(p.grad, expected[n]) for n, p in form.named_parameters() if p.grad is not None
    )


def test_every_parameter_gets_a_gradient(form: fx.GraphModule, image: Tensor) -> None:
    form.train()(image)["logits"].sum().backward()
    assert [n for n, p in form.named_parameters() if p.grad is None] == []


def test_one_norm_can_be_frozen_alone(form: fx.GraphModule, image: Tensor) -> None:
    form.train()
    form.get_submodule("norm").eval()
    form(image)
    assert int(form.get_buffer("norm.num_batches_tracked")) == 0


def test_a_batch_of_one_value_per_channel_is_refused_in_training() -> None:
    form = graph_form(
        capture(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), torch.ones(4, 2))
    ).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        form(torch.ones(1, 2))


def test_the_network_shares_no_memory_with_its_form(
    network: Trainable, form: fx.GraphModule
) -> None:
    form.get_parameter("conv.weight").data.zero_()
    assert bool(network.conv.weight.any())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_form_runs_in_another_dtype(
    form: fx.GraphModule, image: Tensor, dtype: torch.dtype
) -> None:
    assert form.to(dtype)(image.to(dtype))["logits"].dtype == dtype


def test_the_form_runs_on_another_device(form: fx.GraphModule, image: Tensor) -> None:
    assert form.to("meta")(image.to("meta"))["logits"].device.type == "meta"


def test_the_form_is_captured_again_with_a_dynamic_batch(
    form: fx.GraphModule, image: Tensor
) -> None:
    assert capture(form, image).dynamic_batch


def test_tied_names_stay_tied_in_a_deep_copy() -> None:
    form = copy.deepcopy(graph_form(capture(Tied(), (torch.zeros(2, 3, dtype=torch.long), 2.0))))
    assert form.get_parameter("embed.weight") is form.get_parameter("out.weight")


def test_casts_to_the_own_dtype_follow_it() -> None:
    tokens = torch.zeros(2, 3, dtype=torch.long)
    form = graph_form(capture(Tied(), (tokens, 2.0))).double()
    assert form(tokens, 2.0).dtype == torch.float64


def test_another_plain_input_is_refused() -> None:
    tokens = torch.zeros(2, 3, dtype=torch.long)
    form = graph_form(capture(Tied(), (tokens, 2.0)))
    with pytest.raises(InputError, match=r"'factor' is 3\.0.*captured with 2\.0"):
        form(tokens, 3.0)


def test_nested_structures_are_those_of_the_network() -> None:
    x = torch.ones(2, 3)
    example = {"pair": (x, x), "extra": {"a": x}}
    assert isinstance(graph_form(capture(Nested(), example))(**example)[1][0], Pair)


def test_a_name_that_a_graph_module_cannot_hold_is_refused() -> None:
    network = nn.Sequential()
    network.add_module("graph", nn.Linear(2, 2))
    with pytest.raises(CaptureError, match=r"'graph\.weight'.*rename it"):
        graph_form(capture(network, torch.ones(2, 2)))


def test_the_form_of_a_cut_network_takes_sequences_of_another_length():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.inner = nn.Embedding(20, 8), nn.Linear(8, 6)
            self.head = nn.Linear(6, 3)

        def forward(self, ids):
            x = self.inner(self.words(ids)).view(ids.shape[0], ids.shape[1], 6)
            return self.head(x.flatten(0, 1)).view(*ids.shape, 3)

    net = Network.of(Tokens().eval(), torch.randint(0, 20, (2, 5)))
    cut = net.cut(net.plan({"words": range(4), "inner": range(3)}))
    assert graph_form(cut.program)(torch.randint(0, 20, (3, 9))).shape == (3, 9, 3)


def test_an_image_of_another_size_is_refused_by_name(form: fx.GraphModule, image: Tensor) -> None:
    with pytest.raises(InputError, match="was captured with"):
        form(torch.cat([image, image], dim=-1))


def test_the_representation_is_short(form: fx.GraphModule) -> None:
    assert len(repr(form)) < 300


def test_a_deep_copy_remembers_the_original(form: fx.GraphModule) -> None:
    form.meta["original"] = "Net"
    assert repr(copy.deepcopy(form)).startswith("GraphForm(of Net, inputs ")


def test_a_graph_form_has_no_settings_that_a_cut_could_follow():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    example = torch.randn(2, 3, 8)
    form = graph_form(capture(layer, example))
    assert readings(form, ((example,), {})) == Readings((), frozenset())
