"""The coupling as data, as a strip of characters and as a picture."""

from xml.etree import ElementTree as ET

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.cli.groups import write_picture
from penjing.errors import InputError
from penjing.report import Coupling, Report, ReportData
from penjing.report._coupling import _shortened, standalone


class Sorted(nn.Module):
    """Two linear layers; what the second one makes is sorted, which no rule follows."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.three(self.two(torch.relu(self.one(x))).sort(-1).values)


@pytest.fixture(scope="module")
def found():
    return pj.find_groups(Sorted(), torch.ones(1, 4))


def test_a_weight_says_how_much_of_it_groups_remove(found):
    assert [(r.tensor, r.params, r.reached) for r in found.layers] == [
        ("one.weight", 32, 32),
        ("two.weight", 48, 48),
        ("three.weight", 12, 0),
    ]


def test_multiplications_within_reach_are_counted(found):
    assert found.macs == 32 + 48 + 12
    assert found.reachable_macs == pytest.approx(80 / 92)


def test_a_lock_says_what_stays_because_of_it(found):
    lock = next(k for k in found.locked if k.tensor == "three.weight")
    assert (lock.params, lock.macs) == (12, 12)


def test_the_table_draws_each_group_across_the_layers(found):
    assert "●○·" in str(found)


def test_the_strip_shares_its_characters_among_many_layers(found):
    assert found.strip(found["one"], width=2) == "◉·"


def test_the_picture_has_a_dot_for_each_layer_that_a_group_cuts(found):
    root = ET.fromstring(standalone(Coupling.of(found)))
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 2


def test_the_page_shows_coupling_and_locks(found, tmp_path):
    text = write_picture(found, "Sorted", tmp_path / "groups.html").read_text()
    assert "What is coupled" in text
    assert "parameters kept" in text


def test_the_coupling_survives_json(found):
    data = ReportData("groups", "net", coupling=Coupling.of(found), locked=found.locked)
    assert Report(ReportData.from_json(data.to_json())).data == data


def test_another_suffix_is_refused(found, tmp_path):
    with pytest.raises(InputError, match=r"\.svg, \.html or \.json"):
        write_picture(found, "net", tmp_path / "groups.png")


def test_pruning_reports_the_coupling():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    data = pj.prune(net, torch.ones(1, 4), pruning_ratio=0.5).report.data
    assert [line.group for line in data.coupling.lines] == ["0"]


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("encoder.layers.0.fc1", "encoder.layers.0.fc1"),
        ("encoder.layers.0.self_attn.in_proj_weight", "…layers.0.self_attn.in_proj_weight"),
        ("a" * 40, "…" + "a" * 33),
    ],
)
def test_a_name_that_is_too_long_begins_with_a_word(name: str, drawn: str) -> None:
    assert _shortened(name) == drawn
