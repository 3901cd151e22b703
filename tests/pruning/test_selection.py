"""Which layers a person means, and which groups those layers make or touch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from penjing.errors import InputError, StrategyError
from penjing.pruning.selection import ignored_groups, matches, ratios_by_group, several
from penjing.testing import tiny
from penjing.verbs.find_groups import find_groups


@pytest.fixture(scope="module")
def residual():
    model = tiny.make("residual")
    return model, find_groups(model, tiny.example("residual"))


def test_a_name_means_the_module_and_everything_inside(residual):
    assert {"block1", "block1.conv1", "block1.bn2"} <= matches(residual[0], "block1")


def test_a_name_means_no_other_module_that_begins_alike():
    model = nn.ModuleDict({"a": nn.Linear(1, 1), "ab": nn.Linear(1, 1)})
    assert matches(model, "a") == {"a"}


def test_a_parameter_is_meant_by_its_own_name(residual):
    assert matches(residual[0], "fc.weight") == {"fc.weight"}


@pytest.mark.parametrize("key", ["nothing", "block9.*", nn.Conv3d, nn.Linear(1, 1)], ids=str)
def test_what_matches_nothing_is_refused_with_the_names(residual, key):
    with pytest.raises(StrategyError, match=r"matches no layer.*stem"):
        matches(residual[0], key)


def test_a_layer_is_left_alone_at_its_inputs_too(residual):
    model, groups = residual
    assert ignored_groups(model, groups, ["block1.conv2"]) == {"stem", "block1.conv1"}


def test_a_ratio_goes_to_the_groups_that_a_layer_makes(residual):
    model, groups = residual
    assert ratios_by_group(model, groups, {"block1": 0.5}) == {"stem": 0.5, "block1.conv1": 0.5}


def test_a_layer_that_only_reads_units_makes_none(residual):
    model, groups = residual
    with pytest.raises(StrategyError, match="outputs are not cut"):
        ratios_by_group(model, groups, {"fc": 0.5})


def test_a_transposed_convolution_makes_its_outputs_and_not_its_inputs():
    model = tiny.make("transposed")
    groups = find_groups(model, tiny.example("transposed"))
    assert ratios_by_group(model, groups, {nn.ConvTranspose2d: 0.5}) == {"2": 0.5}


def test_an_embedding_makes_its_columns():
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 2))
    groups = find_groups(model, torch.zeros(2, 3, dtype=torch.long))
    assert ratios_by_group(model, groups, {nn.Embedding: 0.5}) == {"0": 0.5}


def test_layers_of_a_wrong_type_are_refused():
    with pytest.raises(InputError, match="ignored_layers is 5; give layers as modules"):
        several(5)
