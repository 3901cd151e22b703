"""Slimmable networks: every width is the cut network, and all of them are one set of weights."""

import copy
from functools import cache

import pytest
import torch
from tests.adaptive.chains import X, chain, deep, task
from torch import nn

import penjing as pj
from penjing.adaptive import Sandwich, SlimmableNetwork
from penjing.adaptive.slimmable import norm_tensors
from penjing.errors import CheckpointError, InputError, PlanError, StrategyError
from penjing.graph.network import Network

QUICK = {"epochs": 3, "lr": 0.02, "keep": "last", "progress": False}
WIDTHS = (0.34, 0.67, 1.0)


@cache
def _fresh():
    return made(widths=WIDTHS)


def made(**how):
    """A fresh network; the usual one is made once."""
    if not how:
        return copy.deepcopy(_fresh())
    return pj.slimmable(chain(), X[:1], **how).model


@pytest.fixture(scope="module")
def trained():
    return pj.train(made(), task(), callbacks=[Sandwich(between=1)], **QUICK).model


@pytest.mark.parametrize("width", WIDTHS)
def test_a_width_equals_the_network_cut_to_it(trained, width):
    wide = copy.deepcopy(trained).double().set_width(width)
    cut = trained.at_width(width).double()
    torch.testing.assert_close(wide(X.double()), cut(X.double()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", WIDTHS[:2])
def test_a_width_equals_the_cut_network_in_training_too(trained, width):
    wide, cut = copy.deepcopy(trained), trained.at_width(width)
    given, wanted = wide.train().set_width(width)(X), cut.train()(X)
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)
    moved = dict(wide.own[WIDTHS.index(width)].named_buffers())["blocks.0.norm.running_mean"]
    torch.testing.assert_close(moved, cut.blocks[0].norm.running_mean, rtol=1e-4, atol=1e-5)


def test_the_cut_network_is_of_the_original_class_and_smaller(trained):
    cut = trained.at_width(0.34)
    assert type(cut) is type(chain())
    assert cut.stem.out_channels == 2


def test_the_full_width_is_the_original_before_training():
    assert torch.equal(made()(X), chain()(X))


def test_gradients_of_a_narrow_width_reach_its_slices_alone():
    net = made().set_width(0.34)
    net(X).sum().backward()
    touched = net.model.stem.weight.grad.abs().sum((1, 2, 3)) > 0
    assert int(touched.sum()) == 2


def test_statistics_of_one_width_leave_the_others_alone(trained):
    net = copy.deepcopy(trained).train()
    with torch.no_grad(), net.at(0.34):
        net(X)
    assert torch.equal(net.eval()(X), trained(X))


def test_widths_are_nested(trained):
    gone = [set(trained.plans[width].drop["stem"]) for width in WIDTHS[:2]]
    assert gone[1] < gone[0]


def test_training_lowers_the_loss_of_every_width(trained):
    fresh = made()
    for width in WIDTHS:
        with fresh.at(width), trained.at(width):
            before, after = (task().evaluate(net)["loss"] for net in (fresh, trained))
        assert after < before


def test_calibration_gives_every_width_statistics_of_its_own():
    net = made(widths=(0.34,), calibration=[X])
    cut = pj.prune(
        chain(),
        X[:1],
        plan=net.plans[0.34],
        calibration=[X],
        repair="recalibrate",
    ).model
    torch.testing.assert_close(net.at_width(0.34)(X), cut(X))


def test_a_network_without_norms_has_widths():
    net = pj.slimmable(deep(), torch.ones(1, 6), widths=(0.5,)).model
    assert norm_tensors(Network.of(deep(), torch.ones(1, 6))) == frozenset()
    assert net.set_width(0.5)(torch.ones(4, 6)).shape == (4, 3)


def test_it_is_saved_and_loaded_without_pickle(trained, tmp_path):
    again = pj.load(pj.save(trained, tmp_path / "net"))
    assert isinstance(again, SlimmableNetwork)
    for width in WIDTHS:
        with again.at(width), trained.at(width):
            torch.testing.assert_close(again(X), trained(X))


def test_in_another_dtype_widths_are_cut_saved_and_loaded(tmp_path):
    net = made().to(torch.bfloat16)
    again, given = pj.load(pj.save(net, tmp_path / "net")), X.to(torch.bfloat16)
    with again.at(0.34), net.at(0.34):
        assert torch.equal(again(given), net(given))
        torch.testing.assert_close(net.at_width(0.34)(given), net(given), rtol=0.05, atol=0.05)


def test_a_width_by_itself_is_saved_like_any_network(trained, tmp_path):
    cut = trained.at_width(0.34)
    again = pj.load(pj.save(cut, tmp_path / "net", X[:1]))
    torch.testing.assert_close(again(X), cut(X))


def test_a_damaged_description_is_refused(tmp_path):
    folder = pj.save(made(), tmp_path / "net")
    spec = folder / "spec.json"
    spec.write_text(spec.read_text().replace('"plans": {', '"plan": {'))
    with pytest.raises(CheckpointError, match="several widths"):
        pj.load(folder)


@pytest.mark.parametrize("widths", [(), (1.0,), (0.0, 1.0), (1.5,), (-0.5, 1.0)])
def test_widths_that_make_no_sense_are_refused(widths):
    with pytest.raises(StrategyError, match="widths are"):
        made(widths=widths)


def test_an_unknown_width_is_refused_and_changes_nothing(trained):
    with pytest.raises(StrategyError, match=r"there are 0\.34, 0\.67, 1"):
        trained.set_width(0.5)
    assert trained.width == 1.0


def test_plans_that_are_not_nested_are_refused():
    net = chain()
    network = Network.of(net, X[:1])
    plans = {0.3: network.plan({"stem": [0, 1]}), 0.6: network.plan({"stem": [2]})}
    with pytest.raises(PlanError, match="does not have"):
        SlimmableNetwork(net, X[:1], plans)


def test_a_network_that_cannot_be_cut_has_no_widths():
    with pytest.raises(InputError, match="no units"):
        pj.slimmable(nn.Linear(4, 2), torch.ones(1, 4))


def test_the_sandwich_needs_several_widths():
    with pytest.raises(InputError, match="one width"):
        pj.train(chain(), task(), callbacks=[Sandwich()], **QUICK)
