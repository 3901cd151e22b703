import pytest
import torch

from penjing.graph.network import Network
from penjing.testing import tiny


@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_a_tiny_network_has_units_to_cut(name):
    assert len(Network.of(tiny.make(name), tiny.example(name)).groups) > 0


@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_a_tiny_network_is_small(name):
    assert sum(p.numel() for p in tiny.make(name).parameters()) < 1500


@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_a_tiny_network_is_the_same_for_the_same_seed(name):
    x = tiny.example(name, batch=2)
    assert torch.equal(tiny.make(name, seed=3)(x), tiny.make(name, seed=3)(x))


@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_another_seed_gives_other_outputs(name):
    x = tiny.example(name, batch=2)
    assert not torch.allclose(tiny.make(name, seed=0)(x), tiny.make(name, seed=1)(x))


def test_making_a_network_draws_its_values_from_the_seed_alone():
    torch.manual_seed(0)
    first = tiny.make("residual").state_dict()
    torch.manual_seed(1)
    second = tiny.make("residual").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
