"""The configuration of a cut network describes it whole, or the report says that it does not."""

import copy
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.graph.capture import capture
from penjing.graph.network import Network
from penjing.plan import BLOCKS, Plan
from penjing.pruning.ablation import Branches
from penjing.pruning.depth import with_branches

ALONE = {"allocation": "uniform", "scope": {"inner"}}


@dataclass
class Settings:
    """Sizes of an encoder."""

    inputs: int = 12
    width: int = 20
    hidden: int = 16
    layers: int = 2
    classes: int = 3


@dataclass
class TypedSettings(Settings):
    """With a list that has an entry per layer."""

    kinds: list[str] = field(default_factory=list)


class Pretrained(nn.Module):
    """A network built from its configuration alone, and written with it."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config

    def save_pretrained(self, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(asdict(self.config)))
        torch.save(self.state_dict(), folder / "weights.pt")

    @classmethod
    def from_pretrained(cls, folder: Path) -> "Pretrained":
        model = cls(Settings(**json.loads((folder / "config.json").read_text())))
        model.load_state_dict(torch.load(folder / "weights.pt"), strict=True)
        return model.eval()


class Block(nn.Module):
    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.up = nn.Linear(config.width, config.hidden)
        self.down = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Encoder(Pretrained):
    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self.embed = nn.Linear(config.inputs, config.width)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.layers)))
        self.head = nn.Linear(config.width, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x)))


class Tied(Pretrained):
    """Its two hidden sizes are one number of the configuration."""

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self.first = nn.Linear(config.inputs, config.hidden)
        self.second = nn.Linear(config.hidden, config.hidden)
        self.last = nn.Linear(config.hidden, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(Settings()).eval()


def example() -> Tensor:
    return torch.randn(2, 12, generator=torch.Generator().manual_seed(1))


def notes(pruned: pj.Pruned) -> str:
    return " ".join(pruned.report.data.notes)


def test_a_config_that_can_describe_the_cut_does(encoder):
    pruned = pj.prune(encoder, example(), pruning_ratio=0.5, **ALONE)
    assert pruned.model.config == Settings(hidden=8)


def test_what_save_pretrained_writes_is_read_whole(encoder, tmp_path):
    model = pj.prune(encoder, example(), pruning_ratio=0.5, **ALONE).model.eval()
    model.save_pretrained(tmp_path)
    again = Encoder.from_pretrained(tmp_path)
    assert torch.equal(again(example()), model(example()))


def test_the_report_says_what_the_config_became(encoder):
    pruned = pj.prune(encoder, example(), pruning_ratio=0.5, **ALONE)
    assert "save_pretrained writes it whole: in its config hidden is 8 (was 16)" in notes(pruned)


def test_several_fields_change_together(encoder):
    pruned = pj.prune(encoder, example(), pruning_ratio=0.5, scope={"inner", "residual"})
    assert pruned.model.config == Settings(width=10, hidden=8)


def test_the_config_of_the_original_stays(encoder):
    pj.prune(encoder, example(), pruning_ratio=0.5, **ALONE)
    assert encoder.config == Settings()


def test_the_parts_of_the_network_share_the_new_config(encoder):
    model = pj.prune(encoder, example(), pruning_ratio=0.5, **ALONE).model
    assert all(block.config is model.config for block in model.blocks)


def test_a_cut_in_place_changes_the_config_too(encoder):
    pj.prune(encoder, example(), pruning_ratio=0.5, inplace=True, **ALONE)
    assert encoder.config == Settings(hidden=8)


def test_a_loaded_network_has_the_config_of_the_saved_one(encoder, tmp_path):
    pruned = pj.prune(encoder, example(), pruning_ratio=0.5, **ALONE)
    loaded = pj.load(pj.save(pruned.model, tmp_path), model=encoder)
    assert loaded.config == Settings(hidden=8)


def unequal(encoder: Encoder) -> pj.Pruned:
    groups = Network.of(encoder, example()).groups
    inner = [g.name for g in groups if g.units == Settings().hidden]
    ratios = {name: 0.25 * (i + 1) for i, name in enumerate(inner)}
    plan = pj.prune(
        encoder, example(), pruning_ratio=0.0, pruning_ratio_dict=ratios, scope={"inner"}
    ).plan
    return pj.prune(encoder, example(), plan=plan)


def test_layers_cut_unequally_are_named(encoder):
    assert "were cut unequally" in notes(unequal(encoder))


def test_a_config_that_cannot_describe_the_cut_is_left_alone(encoder):
    assert unequal(encoder).model.config == Settings()


def test_a_size_that_no_field_has_of_its_own_is_named():
    torch.manual_seed(0)
    pruned = pj.prune(
        Tied(Settings()), example(), pruning_ratio=0.5, ignored_layers=["last"], scope={"inner"}
    )
    assert "no values of it were found that size" in notes(pruned)


def test_a_network_without_save_pretrained_has_no_such_note(encoder):
    plain = nn.Sequential(copy.deepcopy(encoder.embed), copy.deepcopy(encoder.blocks))
    assert "save_pretrained" not in notes(pj.prune(plain, example(), pruning_ratio=0.5))


def without_layers(model: nn.Module, inputs: object, branches: tuple[int, ...]) -> pj.Pruned:
    groups = with_branches(Network.of(model, inputs).groups, Branches.of(capture(model, inputs)))
    units = {group.name: group.units for group in groups}
    return pj.prune(model, inputs, plan=Plan({BLOCKS: branches}, units, groups.fingerprint))


@pytest.fixture
def deep() -> Encoder:
    torch.manual_seed(0)
    return Encoder(Settings(layers=3)).eval()


def test_a_layer_that_is_gone_lowers_the_number_of_layers(deep):
    pruned = without_layers(deep, example(), (1,))
    assert pruned.model.config == Settings(layers=2)
    assert "in its config layers is 2 (was 3)" in notes(pruned)


def test_layers_behind_one_that_is_gone_are_numbered_anew(deep, tmp_path):
    model = without_layers(deep, example(), (0,)).model.eval()
    model.save_pretrained(tmp_path)
    assert torch.equal(Encoder.from_pretrained(tmp_path)(example()), model(example()))
    assert torch.equal(model.blocks[0].up.weight, deep.blocks[1].up.weight)


def test_layers_and_widths_change_the_config_together(deep):
    ratios = {"kind:blocks": 0.34, "kind:neurons": 0.5}
    pruned = pj.prune(
        deep, example(), pruning_ratio_dict=ratios, calibration=[example().repeat(20, 1)],
        scope={"inner", "depth"}, allocation="uniform", repair=None,
    )  # fmt: skip
    assert pruned.model.config == Settings(hidden=8, layers=2)


def test_layers_go_in_place_too(deep):
    made = without_layers(deep, example(), (0,))
    pj.prune(deep, example(), plan=made.plan, inplace=True)
    assert deep.config == Settings(layers=2)
    assert torch.equal(deep(example()), made.model.eval()(example()))


def test_fewer_layers_are_loaded_into_their_class(deep, tmp_path):
    made = without_layers(deep, example(), (0,)).model.eval()
    loaded = pj.load(pj.save(made, tmp_path), model=deep)
    assert loaded.config == Settings(layers=2)
    assert torch.equal(loaded(example()), made(example()))


def test_lists_with_an_entry_per_layer_lose_that_of_a_layer_that_is_gone():
    class Typed(Encoder):
        def __init__(self, config: TypedSettings) -> None:
            super().__init__(config)
            if len(config.kinds) != config.layers:
                raise ValueError("as many kinds as layers")

    config = TypedSettings(layers=3, kinds=["a", "b", "c"])
    pruned = without_layers(Typed(config).eval(), example(), (1,))
    assert pruned.model.config == TypedSettings(layers=2, kinds=["a", "c"])


def tiny(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """Three layers, each of attention and MLP, of `transformers`."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 24}
    tokens = sizes | {"vocab_size": 20, "max_position_embeddings": 8}
    ids = {"input_ids": torch.arange(8).reshape(2, 4)}
    torch.manual_seed(0)
    if name == "bert":
        config = transformers.BertConfig(**tokens)
        return transformers.BertModel(config, add_pooling_layer=False).eval(), ids
    if name == "vit":
        config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4)
        return transformers.ViTForImageClassification(config).eval(), {
            "pixel_values": torch.randn(2, 3, 8, 8)
        }
    config = transformers.LlamaConfig(**tokens, num_key_value_heads=1, use_cache=False)
    return transformers.LlamaForCausalLM(config).eval(), ids


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["vit", "llama"])
def test_fewer_layers_are_written_and_read_by_transformers(name, tmp_path):
    model, inputs = tiny(name)
    made = without_layers(model, inputs, (2, 3)).model.eval()
    made.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert again.config.num_hidden_layers == 2
    torch.testing.assert_close(again(**inputs)[0], made(**inputs)[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "branches", "kept"),
    [
        ("vit", (2,), "'vit.layers.1.layernorm_after.weight' and 5 more"),
        ("bert", (2, 3), "'encoder.layer.1.attention.output.LayerNorm.weight' and 3 more"),
    ],
    ids=["one branch of two", "norms behind the additions"],
)
def test_a_layer_that_is_not_gone_whole_is_told_with_what_it_keeps(name, branches, kept):
    pruned = without_layers(*tiny(name), branches)
    assert f"but keeps {kept}" in notes(pruned)
    assert pruned.model.config.num_hidden_layers == 3


@pytest.mark.filterwarnings("ignore")
def test_a_bert_is_written_and_read_by_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        vocab_size=20, max_position_embeddings=8,
    )  # fmt: skip
    ids = {"input_ids": torch.arange(8).reshape(2, 4)}
    bert = transformers.BertModel(config).eval()
    model = pj.prune(bert, ids, pruning_ratio=0.5, scope={"neurons"}).model.eval()
    model.save_pretrained(tmp_path)
    again = transformers.BertModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**ids)[0], model(**ids)[0], rtol=0, atol=0)
