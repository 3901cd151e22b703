"""Post-training quantization: what runs in integers, how well, and what stays as it was."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import InputError, StrategyError
from penjing.graph.call import op_name
from penjing.graph.capture import Program, capture
from penjing.graph.folding import fold_norms
from penjing.quantization.equalization import equalize
from penjing.quantization.formats import Grid
from penjing.quantization.module import QuantizedModule
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.ptq import Settings, quantize_program
from penjing.quantization.rounding import AdaRound, gptq, nearest
from penjing.quantization.scheme import Scheme
from penjing.task import Calibration
from penjing.testing.tiny import NETWORKS, example, make, randomise

CONVOLUTIONAL = ("residual_a", "concat", "depthwise")


@cache
def _captured(name: str) -> Program:
    return capture(make(name), example(name))


def _tiny(name: str, batch: int = 16, **settings: object) -> QuantizedNetwork:
    samples = Calibration.of([example(name, batch=batch)])
    return quantize_program(_captured(name), samples, Settings(**settings))  # type: ignore[arg-type]


def _quantized(model: nn.Module, x: Tensor, **settings: object) -> QuantizedNetwork:
    return quantize_program(capture(model, x[:1]), Calibration.of([x]), Settings(**settings))  # type: ignore[arg-type]


def _error(network: QuantizedNetwork, model: nn.Module, x: Tensor) -> float:
    """Relative squared error of the outputs."""
    with torch.no_grad():
        wanted, got = model(x), QuantizedModule(network)(x)
    return float((wanted - got).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_convolutional_network_is_integer_throughout(name: str) -> None:
    network = _tiny(name)
    assert network.fallbacks == {}


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_eight_bits_answer_nearly_as_floats_do(name: str) -> None:
    x = example(name, batch=64)
    assert _error(_tiny(name, 64), make(name), x) < 2e-3


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - set(CONVOLUTIONAL)))
def test_every_tiny_network_is_quantized_or_says_why(name: str) -> None:
    network = _tiny(name)
    nodes = [n for n in network.program.graph.nodes if n.op == "call_function"]
    layers = [n for n in nodes if op_name(n) in {"linear", "conv2d", "conv1d"}]
    assert all(network.integer(n) or network.fallbacks.get(n.name) for n in layers)


def test_weights_lie_on_their_grids() -> None:
    network = _tiny("residual_a")
    for fqn, grid in network.weights.items():
        weight = network.program.tensors[fqn].double()
        torch.testing.assert_close(
            grid.dequantize(network.integers(fqn), torch.float64), weight, rtol=1e-6, atol=0
        )


@pytest.mark.parametrize("rounding", ["nearest", "gptq", "adaround"])
def test_zeros_stay_zeros(rounding: str) -> None:
    model, x = make("plain"), example("plain", batch=16)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p[torch.rand(p.shape, generator=torch.Generator().manual_seed(0)) < 0.6] = 0
    folded = fold_norms(capture(model, x[:1]))
    network = _quantized(model, x, rounding=rounding, scheme=Scheme(weight_bits=4))
    for fqn in network.weights:
        zero = folded.tensors[fqn] == 0
        assert not network.integers(fqn)[zero].any()


def test_what_a_concatenation_joins_shares_a_grid() -> None:
    network = _tiny("concat")
    joins = [n for n in network.program.graph.nodes if op_name(n) == "cat"]
    for join in joins:
        own = network.activations[join.name]
        assert all(network.activations[n.name].same(own) for n in join.all_input_nodes)


def test_a_layer_in_front_of_a_relu_is_fused_with_it() -> None:
    network = _tiny("plain")
    nodes = network.program.nodes
    relus = [n for n in nodes if op_name(nodes[n]) == "relu"]
    assert sorted(network.fused.values()) == sorted(relus)


def test_a_log_softmax_stays_in_floats_and_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LogSoftmax(1), nn.GELU(), nn.Linear(8, 3))
    network = _quantized(randomise(model, 0), torch.randn(32, 6))
    assert network.fallbacks == {
        "log_softmax": "log_softmax has no integer form",
        "gelu": "it follows log_softmax, which is computed in floats",
    }


def test_a_float_result_is_quantized_where_a_layer_reads_it() -> None:
    model = nn.Sequential(nn.LogSoftmax(1), nn.Linear(6, 3))
    network = _quantized(randomise(model, 0), torch.randn(32, 6))
    assert "log_softmax" in network.activations


@pytest.mark.parametrize("act", [nn.Hardswish(), nn.Sigmoid(), nn.GELU()])
def test_an_activation_of_one_value_is_a_table(act: nn.Module) -> None:
    network = _quantized(nn.Sequential(nn.Linear(4, 8), act, nn.Linear(8, 2)), torch.randn(32, 4))
    assert network.fallbacks == {}


def test_softmax_has_the_grid_of_probabilities() -> None:
    network = _quantized(nn.Sequential(nn.Linear(4, 8), nn.Softmax(-1)), torch.randn(32, 4))
    grid = network.activations["softmax"]
    assert (float(grid.scale), grid.zero_point) == (1 / 256, -128)


def test_bias_correction_removes_the_mean_error() -> None:
    model, x, scheme = make("plain"), example("plain", batch=128), Scheme(weight_bits=4)
    with torch.no_grad():
        wanted = model(x).mean(0)
        errors = [
            float((QuantizedModule(n)(x).mean(0) - wanted).abs().max())
            for n in (
                _tiny("plain", 128, scheme=scheme, bias_correction=False),
                _tiny("plain", 128, scheme=scheme),
            )
        ]
    assert errors[1] < 0.5 * errors[0]


def _problem() -> tuple[Tensor, Tensor, Grid, Tensor]:
    """Weights, steps, grid and the Gram matrix of correlated inputs."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(1, 6, 20, generator=generator, dtype=torch.float64)
    x = torch.randn(500, 20, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(20, 20, generator=generator, dtype=torch.float64)
    grid = Grid.symmetric(w[0].abs().amax(1), 4, axis=0)
    return w, grid.scale[None], grid, (x.T @ x)[None]


@pytest.mark.parametrize("method", [gptq, AdaRound()], ids=["gptq", "adaround"])
def test_rounding_with_data_beats_the_nearest(method) -> None:
    w, step, grid, xx = _problem()

    def error(q: Tensor) -> float:
        return float((((q - w) @ xx) * (q - w)).sum())

    assert error(method(w, step, grid, xx)) < 0.8 * error(nearest(w, step, grid))


def test_equalized_layers_compute_the_same() -> None:
    x = example("plain", batch=4).double()
    folded = fold_norms(capture(make("plain").double(), x))
    torch.testing.assert_close(
        equalize(folded).run([x])[0], folded.run([x])[0], rtol=1e-10, atol=1e-10
    )


def test_equalization_makes_ranges_alike() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        model[0].weight[0] *= 100
    folded = fold_norms(capture(model, torch.randn(2, 4)))
    rows = equalize(folded).tensors["0.weight"].abs().amax(1)
    columns = equalize(folded).tensors["2.weight"].abs().amax(0)
    torch.testing.assert_close(rows, columns)


@pytest.mark.parametrize("scheme", ["int8x16", "int7", "int4", "ternary", "binary", "int8-shift"])
def test_every_scheme_runs(scheme: str) -> None:
    from penjing.quantization.scheme import resolve

    x = example("plain", batch=16)
    network = _tiny("plain", scheme=resolve(scheme))
    assert bool(QuantizedModule(network)(x).isfinite().all())


def test_sixteen_bit_activations_are_closer() -> None:
    x = example("plain", batch=64)
    errors = [
        _error(_tiny("plain", 64, scheme=Scheme(activation_bits=b)), make("plain"), x)
        for b in (8, 16)
    ]
    assert errors[1] < errors[0]


def test_shift_scales_are_powers_of_two() -> None:
    network = _tiny("plain", scheme=Scheme(power_of_two=True))
    grids = [*network.activations.values(), *network.weights.values()]
    assert all(bool((g.scale.log2() % 1 == 0).all()) for g in grids)


def test_constant_inputs_have_grids() -> None:
    x = torch.zeros(8, *NETWORKS["plain"][1])
    assert _error(_quantized(make("plain"), x), make("plain"), x) < 2e-3


def test_an_overflow_is_named() -> None:
    class Overflows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.exp(x * 1000) + x

    with pytest.raises(InputError, match="'exp' is NaN or infinite"):
        _quantized(Overflows(), torch.ones(4, 2), observer="min_max")


def test_nan_among_numbers_is_named() -> None:
    class Roots(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sqrt() + x

    x = torch.rand(4, 2)
    x[1, 1] = -1
    with pytest.raises(InputError, match="'sqrt' is NaN or infinite"):
        _quantized(Roots(), x)


def test_a_network_without_integer_ops_is_refused() -> None:
    with pytest.raises(StrategyError, match="nothing in the network has an integer form"):
        _quantized(nn.LogSoftmax(1), torch.randn(4, 3))


def test_int4_weights_take_half_a_byte() -> None:
    model = nn.Linear(64, 32, bias=False)
    x = torch.randn(16, 64)
    sizes = [_quantized(model, x, scheme=Scheme(weight_bits=b)).size_bytes() for b in (8, 4)]
    assert sizes[0] - sizes[1] == 64 * 32 // 2


def test_zeros_that_one_bit_cannot_say_are_spoken_of() -> None:
    model = nn.Sequential(nn.Linear(4, 8))
    with torch.no_grad():
        model[0].weight[:, 0] = 0
    notes = pj.quantize(
        model, torch.ones(1, 4), calibration=[torch.randn(16, 4)], scheme="binary"
    ).report.data.notes
    assert any(note.startswith("8 weights of 0.weight are zero") for note in notes)
