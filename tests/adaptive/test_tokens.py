"""Fewer tokens: nothing is lost in merging, equal tokens cost nothing, and streams are shorter."""

import copy
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import penjing as pj
from penjing.adaptive.tokens import find_sites
from penjing.errors import InputError, StrategyError
from penjing.graph.capture import capture
from penjing.graph.tokens import drop_by_attention, drop_by_norm, merge_tokens

GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(2, 12, 6, generator=GENERATOR)


class Layer(nn.Module):
    def __init__(self, width=8, heads=2):
        super().__init__()
        self.heads = heads
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x):
        n, t, d = x.shape
        parts = self.mixed(self.norm(x)).reshape(n, t, 3, self.heads, d // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.last(x))))


class Encoder(nn.Module):
    """A small encoder that reads its first token, or the mean of all."""

    def __init__(self, reads_first=False, places=0):
        super().__init__()
        torch.manual_seed(0)
        self.into, self.reads_first = nn.Linear(6, 8), reads_first
        self.layers = nn.ModuleList([Layer() for _ in range(2)])
        self.table = nn.Parameter(torch.randn(places, 8)) if places else None
        self.norm, self.end = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.into(x)
        for layer in self.layers:
            x = layer(x)
            x = x if self.table is None else x + self.table
        x = self.norm(x)
        return self.end(x[:, 0] if self.reads_first else x.mean(1))


def reduced(net=None, **how):
    return pj.reduce_tokens(net or Encoder().eval(), X, **{"r": 2, **how})


@cache
def shorter(method="merge", reads_first=False):
    """The usual result, made once; only read."""
    return reduced(Encoder(reads_first).eval(), method=method)


def brute_force(x, keys, size, r, protected):
    """Merge pair by pair, in Python."""
    metric = F.normalize(keys.mean(0), dim=-1)
    even, odd = range(0, len(x), 2), range(1, len(x), 2)
    best = []
    for i in even[protected:] if protected else even:
        score, j = max((float(metric[i] @ metric[j]), -j) for j in odd)
        best.append((score, i, -j))
    gone = sorted(best, key=lambda b: -b[0])[:r]
    total, count = {j: x[j] * size[j] for j in odd}, {j: size[j] for j in odd}
    for _, i, j in gone:
        total[j], count[j] = total[j] + x[i] * size[i], count[j] + size[i]
    stays = [i for i in even if i not in {i for _, i, _ in gone}]
    rows = [x[i] for i in stays] + [total[j] / count[j] for j in odd]
    return torch.stack(rows), torch.stack([*(size[i] for i in stays), *(count[j] for j in odd)])


@pytest.mark.parametrize("protected", [0, 1])
def test_merging_does_what_merging_pair_by_pair_does(protected):
    x = torch.randn(3, 11, 4, generator=GENERATOR, dtype=torch.float64)
    keys = torch.randn(3, 2, 11, 5, generator=GENERATOR, dtype=torch.float64)
    size = torch.randint(1, 4, (3, 11), generator=GENERATOR).double()
    rows, sizes = merge_tokens(x, keys, size, 3, protected)
    for n in range(3):
        wanted = brute_force(x[n], keys[n], size[n], 3, protected)
        torch.testing.assert_close((rows[n], sizes[n]), wanted, rtol=1e-12, atol=1e-12)


def test_sizes_add_up_and_so_do_the_tokens():
    keys = torch.randn(2, 2, 12, 5, generator=GENERATOR).double()
    rows, sizes = merge_tokens(X.double(), keys, None, 5, 0)
    assert sizes.sum(1).tolist() == [12, 12]
    torch.testing.assert_close((rows * sizes[..., None]).sum(1), X.double().sum(1))


def test_the_protected_token_stays_at_the_front():
    keys = torch.ones(2, 2, 12, 5)
    rows, sizes = merge_tokens(X, keys, None, 5, 1)
    assert torch.equal(rows[:, 0], X[:, 0])
    assert sizes[:, 0].tolist() == [1, 1]


def test_merging_equal_tokens_changes_nothing():
    net = Encoder().eval().double()
    twice = X.double()[:, :6].repeat_interleave(2, 1)
    made = pj.reduce_tokens(net, twice, r=[6, 0])
    torch.testing.assert_close(made.model(twice), net(twice), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["merge", "attention", "norm"])
def test_where_none_goes_it_is_the_original(method):
    assert torch.equal(reduced(r=0, method=method).model(X), Encoder().eval()(X))


def test_dropping_keeps_the_order_and_the_largest():
    kept = drop_by_norm(X, 4, 0)
    norms = X.square().sum(-1)
    for n in range(2):
        wanted = X[n][norms[n].topk(8).indices.sort().values]
        assert torch.equal(kept[n], wanted)


def test_dropping_by_attention_keeps_what_the_first_token_looks_at():
    queries, keys = (torch.randn(2, 2, 12, 5, generator=GENERATOR) for _ in range(2))
    kept = drop_by_attention(X, queries, keys, 4, 1)
    looked = (queries[:, :, :1] @ keys.transpose(2, 3) / 5**0.5).softmax(-1).mean((1, 2))
    for n in range(2):
        wanted = looked[n, 1:].topk(7).indices.sort().values + 1
        assert torch.equal(kept[n], X[n][torch.cat([torch.zeros(1).long(), wanted])])


def test_dropping_by_attention_takes_the_scale_of_the_attention():
    queries, keys = (torch.randn(2, 2, 12, 4, generator=GENERATOR) for _ in range(2))
    wanted = drop_by_attention(X, 10 * queries, keys, 4, 1)
    assert torch.equal(drop_by_attention(X, queries, keys, 4, 1, 5.0), wanted)


def by_hand(queries, keys, seen):
    """How much each token is looked at, from the attention that torch computes."""
    each = torch.eye(queries.shape[-2]).expand(2, 2, -1, -1)
    return F.scaled_dot_product_attention(queries, keys, each, attn_mask=seen).mean((1, 2))


MASKS = {
    "causal": torch.ones(12, 12, dtype=torch.bool).tril(),
    "of keys": (torch.arange(12) < 9).expand(2, 1, 1, 12),
    "added": torch.randn(12, 12, generator=GENERATOR),
}


@pytest.mark.parametrize("kind", MASKS)
def test_dropping_by_attention_sees_what_the_attention_sees(kind):
    queries, keys = (torch.randn(2, 2, 12, 5, generator=GENERATOR) for _ in range(2))
    how = {"causal": True} if kind == "causal" else {"mask": MASKS[kind]}
    kept = drop_by_attention(X, queries, keys, 4, 0, **how)
    looked = by_hand(queries, keys, MASKS[kind])
    for n in range(2):
        assert torch.equal(kept[n], X[n][looked[n].topk(8).indices.sort().values])


class Causal(Layer):
    """A layer whose tokens see only those before them."""

    def forward(self, x):
        n, t, d = x.shape
        parts = self.mixed(self.norm(x)).reshape(n, t, 3, self.heads, d // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).reshape(n, t, d))


def test_behind_a_causal_layer_tokens_are_dropped_by_causal_attention():
    net = nn.Sequential(nn.Linear(6, 8), Causal()).eval()
    graph = pj.reduce_tokens(net, X, r=4, method="attention").model.graph
    (node,) = [n for n in graph.nodes if n.target is drop_by_attention]
    assert node.args[-2:] == (None, True)


@pytest.mark.parametrize("method", ["merge", "attention", "norm"])
@pytest.mark.parametrize("reads_first", [False, True])
def test_streams_are_really_shorter(method, reads_first):
    made = shorter(method, reads_first)
    attention = find_sites(capture(made.model, X))
    assert [site.attention.meta["val"].shape[-2] for site in attention] == [12, 10]
    assert made.report.data.choices["protected"] == str(int(reads_first))
    assert made.report.data.after.macs < made.report.data.before.macs


def test_any_batch_goes_through():
    assert shorter().model(torch.randn(7, 12, 6)).shape == (7, 3)


def test_it_trains():
    made = copy.deepcopy(shorter().model)
    made(X).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in made.layers.parameters())


def test_it_is_saved_and_loaded_without_pickle(tmp_path):
    made = shorter().model
    assert torch.equal(pj.load(pj.save(made, tmp_path / "net"))(X), made(X))


def test_it_is_exported_to_onnx(tmp_path):
    assert pj.export(shorter().model, X, tmp_path / "net.onnx").difference < 1e-4


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"r": 7}, "at most half"),
        ({"r": 11, "method": "norm"}, "cannot go"),
        ({"r": -1}, "cannot go"),
        ({"r": [1, 2, 3]}, "names 3 layers"),
        ({"method": "guess"}, "unknown method"),
        ({"protect": 3}, "0 or 1"),
        ({"protect": True}, "0 or 1"),
        ({"r": 2.5}, "a whole number"),
        ({"r": [1.0, 2]}, "a whole number"),
    ],
)
def test_a_wrong_wish_is_refused(how, says):
    with pytest.raises(StrategyError, match=says):
        reduced(**how)


def test_a_table_of_places_is_refused_by_its_op():
    with pytest.raises(InputError, match="one value per token"):
        reduced(Encoder(places=12).eval())


def test_a_norm_over_tokens_is_refused_by_its_op():
    net = Encoder()
    net.norm = nn.LayerNorm((12, 8))
    with pytest.raises(InputError, match="layer_norm"):
        reduced(net.eval())


class Tagger(Encoder):
    """One output per token."""

    def forward(self, x):
        x = self.into(x)
        for layer in self.layers:
            x = layer(x)
        return self.end(self.norm(x))


def test_the_report_says_that_an_output_has_fewer_tokens():
    notes = reduced(Tagger().eval()).report.data.notes
    assert any("[8, 3] per sample and had [12, 3]" in note for note in notes)


def test_a_network_without_attention_says_so():
    with pytest.raises(InputError, match="no self-attention"):
        pj.reduce_tokens(nn.Linear(6, 2), X, r=1)


def test_attention_that_folds_heads_into_the_batch_is_refused():
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    with pytest.raises(InputError, match="cannot be followed"):
        pj.reduce_tokens(nn.TransformerEncoder(layer, 2).eval(), X, r=1)


def test_a_vision_transformer_of_the_hub():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=8,
        patch_size=2,
        num_labels=3,
    )
    net = transformers.ViTForImageClassification(config).eval()
    image = {"pixel_values": torch.randn(2, 3, 8, 8)}
    made = pj.reduce_tokens(net, image, r=3)
    assert made.report.data.choices["tokens behind each layer"] == "14, 11"
    assert made.model(**image).logits.shape == (2, 3)
