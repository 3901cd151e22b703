"""One rule per compute op: how the labels of its outputs follow from those of its inputs.

A rule takes a `Site` (the call, the algebra, the labels of its arguments) and returns one list of
dimensions per output. Data movement needs no rule, element-wise ops share one, and an op without
any locks what it touches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from string import ascii_lowercase, ascii_uppercase
from types import MappingProxyType

from torch import fx

from penjing.graph.axes import Atoms, Dim, Reason, fixed, join
from penjing.graph.call import Call, is_tensor, op_name, output_shapes, where

Labels = list[Dim]


@dataclass(frozen=True, slots=True)
class Site:
    """One op where labels meet.

    Args:
        call: The op.
        atoms: The algebra.
        labels_of: Labels of an argument node.
        is_constant: Whether a node does not depend on the user's inputs.
        numbers: The dimension whose positions the values of an integer node are, if any.
        shapes: Shapes of the outputs.
    """

    call: Call
    atoms: Atoms
    labels_of: Callable[[fx.Node], Labels]
    is_constant: Callable[[fx.Node], bool]
    numbers: Callable[[fx.Node], Dim | None]
    shapes: Sequence[tuple[int, ...]]

    def labels(self, name: str) -> Labels | None:
        """Labels of the argument called `name`; None when it was not given."""
        node = self.call.arg(name)
        return self.labels_of(node) if is_tensor(node) else None

    def must(self, name: str) -> Labels:
        """Labels of an argument that is always there."""
        return self.labels_of(self.call.arg(name))

    def reason(self, what: str = "") -> Reason:
        """This op, with a cause, as a reason."""
        return Reason(f"{self.call.name} {what}".strip(), where(self.call.node))

    def unify(self, left: Dim, right: Dim, what: str = "") -> None:
        """Make two dimensions go together."""
        if not self.atoms.joined(left, right):
            self.atoms.unify(left, right, self.reason(what))

    def lock(self, dims: Sequence[Dim], what: str) -> None:
        """Never cut these dimensions."""
        live = [dim for dim in dims if self.atoms.is_live(dim)]
        if live:
            reason = self.reason(what)
            for dim in live:
                self.atoms.lock(dim, reason)

    def axes(self, name: str = "dim", rank: int | None = None) -> list[int]:
        """Axis numbers (>= 0) of an argument, an int or a list; all axes when absent or empty."""
        rank = len(self.must("self")) if rank is None else rank
        given = self.call.arg(name)
        if given is None or given == []:
            return list(range(rank))
        return [a % rank for a in (given if isinstance(given, (list, tuple)) else [given])]


Rule = Callable[[Site], list[Labels]]


def fixed_outputs(site: Site) -> list[Labels]:
    """Outputs that never change."""
    return [[fixed(size) for size in shape] for shape in site.shapes]


def broadcast(
    site: Site, operands: Sequence[Labels], shape: Sequence[int], what: str = ""
) -> Labels:
    """Labels of operands broadcast to `shape`; dimensions of full size go together."""
    out: Labels = []
    for axis in range(-len(shape), 0):
        size = shape[axis]
        dims = [
            labels[axis]
            for labels in operands
            if len(labels) >= -axis and len(labels[axis]) == size
        ]
        for left, right in pairwise(dims):
            site.unify(left, right, what)
        out.append(next((d for d in dims if d.shape[1]), dims[0] if dims else fixed(size)))
    return out


# ---------------------------------------------------------------- element-wise


def pointwise(site: Site) -> list[Labels]:
    """Element-wise: dimensions of full size go together; sums of live tensors make a stream."""
    operands = site.call.tensors
    if len(operands) == 1 and len(alone := site.labels_of(operands[0])) == len(site.shapes[0]):
        return [alone]
    labels = broadcast(site, [site.labels_of(n) for n in operands], site.shapes[0])
    moving = [n for n in operands if not site.is_constant(n) and op_name(n) not in FILLED]
    if site.call.name in {"add", "sub", "add_", "sub_"} and len(set(moving)) > 1:
        for axis, dim in enumerate(labels):
            full = [n for n in moving if len(site.labels_of(n)) >= len(labels) - axis]
            same = [n for n in full if len(site.labels_of(n)[axis - len(labels)]) == len(dim)]
            if len(same) > 1:
                site.atoms.mark_stream(dim)
    return [labels]


def same(site: Site) -> list[Labels]:
    """The first argument's labels, for every output."""
    first = site.labels_of(site.call.tensors[0])
    return [first for _ in site.shapes]


def prelu(site: Site) -> list[Labels]:
    """One slope for all, or one per channel."""
    x, weight = site.must("self"), site.must("weight")
    channel = x[1] if len(x) > 1 else x[0]
    if len(weight[0]) == len(channel) > 1:
        site.unify(channel, weight[0])
    return [x]


def glu(site: Site) -> list[Labels]:
    """The two halves go together."""
    x = site.must("self")
    axis = site.call.arg("dim", -1) % len(x)
    half = len(x[axis]) // 2
    site.unify(x[axis][:half], x[axis][half:], "halves")
    return [[dim[:half] if j == axis else dim for j, dim in enumerate(x)]]


# ---------------------------------------------------------------- shape


def expand(site: Site) -> list[Labels]:
    """A broadcast dimension gets fresh atoms: its size follows whatever it meets."""
    x, shape = site.labels_of(site.call.tensors[0]), site.shapes[0]
    missing = len(shape) - len(x)
    out: Labels = []
    for axis, size in enumerate(shape):
        source = x[axis - missing] if axis >= missing else None
        out.append(
            source
            if source is not None and len(source) == size
            else site.atoms.new(size)
            if size > 1
            else fixed(size)
        )
    return [out]


def fill(site: Site) -> list[Labels]:
    """A new tensor of one value: its sizes follow whatever they meet."""
    return [[site.atoms.new(size) if size > 1 else fixed(size) for size in site.shapes[0]]]


def cat(site: Site) -> list[Labels]:
    """One after the other along `dim`, together along the rest."""
    nodes = [
        n for n in site.call.arg("tensors") if len(output_shapes(n)[0] or ()) == len(site.shapes[0])
    ]
    parts = [site.labels_of(n) for n in nodes]
    axis = site.call.arg("dim", 0) % len(site.shapes[0])
    out: Labels = []
    for j in range(len(site.shapes[0])):
        if j == axis:
            out.append(join([p[j] for p in parts]))
            continue
        for left, right in pairwise(p[j] for p in parts):
            site.unify(left, right)
        out.append(parts[0][j])
    return [out]


def pad(site: Site) -> list[Labels]:
    """Padding of a live dimension is fresh atoms: option A shortcuts couple with an offset."""
    x, amounts = site.must("self"), site.call.arg("pad")
    constant = site.call.arg("mode", "constant") == "constant" if site.call.has("mode") else True
    out: Labels = []
    for axis, dim in enumerate(x):
        place = 2 * (len(x) - 1 - axis)
        low, high = amounts[place : place + 2] if place + 1 < len(amounts) else (0, 0)
        size = site.shapes[0][axis]
        if low == high == 0:
            out.append(dim)
        elif not site.atoms.is_live(dim):
            out.append(fixed(size))
        elif constant and low >= 0 and high >= 0:
            out.append(join([site.atoms.new(low), dim, site.atoms.new(high)]))
        else:
            site.lock([dim], "reflects or crops it")
            out.append(fixed(size))
    return [out]


def as_complex(site: Site) -> list[Labels]:
    """Pairs become one number: the dimension of two stays."""
    x = site.must("self")
    site.lock(x[-1:], "pairs it")
    return [x[:-1]]


def as_real(site: Site) -> list[Labels]:
    """The reverse of `as_complex`."""
    return [[*site.must("self"), fixed(2)]]


def channel_shuffle(site: Site) -> list[Labels]:
    """View as (groups, c / groups), transpose, merge."""
    x, groups = site.must("self"), site.call.arg("groups")
    sizes = [groups, len(x[1]) // groups]
    outer, inner = site.atoms.split(x[1], sizes, site.reason("groups"))
    return [[x[0], site.atoms.merged([inner, outer]), *x[2:]]]


# ---------------------------------------------------------------- products


def linear(site: Site) -> list[Labels]:
    """y[..., o] = sum_i x[..., i] w[o, i] + b[o]."""
    x, weight, bias = site.must("input"), site.must("weight"), site.labels("bias")
    site.unify(x[-1], weight[-1], "input")
    out = [weight[0]] if len(weight) > 1 else []
    if bias is not None and out:
        site.unify(out[0], bias[0], "bias")
    return [[*x[:-1], *out]]


def convolution(site: Site) -> list[Labels]:
    """Convolution of any rank; a grouped one is view(g, c / g), contract, merge."""
    return _convolution(site, transposed=False)


def transposed_convolution(site: Site) -> list[Labels]:
    """Transposed convolution: the weight is (in, out / g, ...)."""
    return _convolution(site, transposed=True)


def _convolution(site: Site, *, transposed: bool) -> list[Labels]:
    x, weight, bias = site.must("input"), site.must("weight"), site.labels("bias")
    batch = len(x) - len(weight) + 1
    channel, groups = x[batch], site.call.arg("groups", 1)
    site.lock([*x[batch + 1 :], *weight[2:]], "over its spatial axes")
    if groups == 1:
        inward, outward = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
        site.unify(channel, inward, "input")
    else:
        outward = _grouped(site, channel, weight, groups, transposed)
    if bias is not None:
        site.unify(outward, bias[0], "bias")
    return [[*x[:batch], outward, *(fixed(size) for size in site.shapes[0][batch + 1 :])]]


def _grouped(site: Site, channel: Dim, weight: Labels, groups: int, transposed: bool) -> Dim:
    """Unify the groups of input and weight; the labels of the output channels."""
    reason = site.reason("groups")
    x_group, x_inner = site.atoms.split(channel, [groups, len(channel) // groups], reason)
    w_group, w_inner = site.atoms.split(weight[0], [groups, len(weight[0]) // groups], reason)
    inward, outward = (w_inner, weight[1]) if transposed else (weight[1], w_inner)
    site.unify(x_group, w_group, "groups")
    site.unify(x_inner, inward, "input")
    return site.atoms.merged([x_group, outward])


def matmul(site: Site) -> list[Labels]:
    """Matrix product with broadcast batch dimensions."""
    tensors = [site.labels_of(n) for n in site.call.node.args[:2] if isinstance(n, fx.Node)]
    return [_matmul(site, tensors[0], tensors[1], site.shapes[0])]


def addmm(site: Site) -> list[Labels]:
    """A matrix product plus a bias."""
    bias, left, right = (
        site.labels_of(n) for n in site.call.node.args[:3] if isinstance(n, fx.Node)
    )
    out = _matmul(site, left, right, site.shapes[0])
    return [broadcast(site, [out, bias], site.shapes[0], "bias")]


def _matmul(site: Site, left: Labels, right: Labels, shape: Sequence[int]) -> Labels:
    site.unify(left[-1], right[-2 if len(right) > 1 else -1], "inner")
    rows, columns = left[-2:-1], right[-1:] if len(right) > 1 else []
    lead = len(shape) - len(rows) - len(columns)
    return [*broadcast(site, [left[:-2], right[:-2]], shape[:lead], "batch"), *rows, *columns]


def einsum(site: Site) -> list[Labels]:
    """Equal letters go together; letters that are left stay in the output."""
    nodes = site.call.arg("tensors")
    ranks = [len(site.labels_of(n)) for n in nodes]
    terms, output = einsum_letters(site.call.arg("equation"), ranks)
    letters: dict[str, Dim] = {}
    for term, node in zip(terms, nodes, strict=True):
        for letter, dim in zip(term, site.labels_of(node), strict=True):
            if letter in letters and len(letters[letter]) == len(dim):
                site.unify(letters[letter], dim, f"index {letter}")
            if letter not in letters or len(letters[letter]) < len(dim):
                letters[letter] = dim
    return [[letters[letter] for letter in output]]


def einsum_letters(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Letters of every operand and of the output, with an ellipsis spelt out.

    Args:
        equation: As `torch.einsum` takes it.
        ranks: Number of dimensions of each operand.

    Returns:
        One string per operand, and the output's.

    Example:
        >>> einsum_letters("...i,...i", [3, 2])
        (['ABi', 'Bi'], 'AB')
    """
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    spare = [c for c in ascii_uppercase + ascii_lowercase if c not in equation]
    hidden = [
        rank - len(term) + len(ELLIPSIS) if ELLIPSIS in term else 0
        for term, rank in zip(terms, ranks, strict=True)
    ]
    names = "".join(spare[: max(hidden)])
    spelt = [
        term.replace(ELLIPSIS, names[len(names) - n :])
        for term, n in zip(terms, hidden, strict=True)
    ]
    once = "".join(sorted(c for c in set(inputs) - set(",.") if inputs.count(c) == 1))
    return spelt, output.replace(ELLIPSIS, names) if arrow else names + once


ELLIPSIS = "..."


def attention(site: Site) -> list[Labels]:
    """softmax(q k^T scale + mask) v: heads, q-k dims and v dims are axes; keys are not cut."""
    q, k, v, mask = (
        site.must("query"),
        site.must("key"),
        site.must("value"),
        site.labels("attn_mask"),
    )
    if site.call.arg("enable_gqa", False) and len(k[-3]) < len(q[-3]):
        k, v = _shared_heads(site, q, k), _shared_heads(site, q, v)
    site.unify(q[-1], k[-1], "q and k dims")
    site.unify(k[-2], v[-2], "keys")
    site.lock([k[-2]], "softmax over keys")
    shape = site.shapes[0]
    lead = broadcast(site, [q[:-2], k[:-2], v[:-2]], shape[:-2], "heads")
    if mask is not None:
        broadcast(site, [[*lead, q[-2], k[-2]], mask], [*shape[:-1], len(k[-2])], "mask")
    return [[*lead, q[-2], v[-1]]]


def _shared_heads(site: Site, q: Labels, kv: Labels) -> Labels:
    """Labels of keys or values whose heads each serve a run of query heads."""
    runs = [len(kv[-3]), len(q[-3]) // len(kv[-3])]
    outer, _ = site.atoms.split(q[-3], runs, site.reason("query heads of a key head"))
    site.unify(outer, kv[-3], "query heads of a key head")
    return [*kv[:-3], q[-3], *kv[-2:]]


# ---------------------------------------------------------------- normalisation


def batch_norm(site: Site) -> list[Labels]:
    """Per-channel affine in eval mode; also instance norm, and norms by the input's own moments."""
    x = site.must("input")
    instance = site.call.has("use_input_stats")
    if site.call.arg("use_input_stats" if instance else "training"):
        for dim in x[2:] if instance else (x[0], *x[2:]):
            site.atoms.mark_normalised(dim)
    for name in ("weight", "bias", "running_mean", "running_var"):
        stored = site.labels(name)
        if stored is not None:
            site.unify(x[1], stored[0], name)
    return [x for _ in site.shapes]


def layer_norm(site: Site) -> list[Labels]:
    """Statistics over the last dimensions; also RMS norm."""
    x, rank = site.must("input"), len(site.call.arg("normalized_shape"))
    for name in ("weight", "bias"):
        stored = site.labels(name) if site.call.has(name) else None
        for left, right in zip(x[-rank:], stored or (), strict=bool(stored)):
            site.unify(left, right, name)
    for dim in x[-rank:]:
        site.atoms.mark_normalised(dim)
    return [x]


def group_norm(site: Site) -> list[Labels]:
    """Statistics inside `num_groups` runs of channels: whole runs go, or the same share of each."""
    x, groups = site.must("input"), site.call.arg("num_groups")
    for name in ("weight", "bias"):
        stored = site.labels(name)
        if stored is not None:
            site.unify(x[1], stored[0], name)
    _, inner = site.atoms.split(x[1], [groups, len(x[1]) // groups], site.reason("groups"))
    site.atoms.mark_normalised(inner)
    return [x]


def weight_norm(site: Site) -> list[Labels]:
    """Weight v g / |v|: the norm runs over every dimension but one."""
    v, g, axis = site.must("v"), site.must("g"), site.call.arg("dim", 0)
    site.unify(v[axis], g[axis])
    for j, dim in enumerate(v):
        if j != axis:
            site.atoms.mark_normalised(dim)
    return [v]


# ---------------------------------------------------------------- reductions and windows


def reduce_exact(site: Site) -> list[Labels]:
    """Sums and norms: a masked position adds nothing."""
    return _reduce(site, normalised=False)


def reduce_normalised(site: Site) -> list[Labels]:
    """Means, extrema: over kept positions only."""
    return _reduce(site, normalised=True)


def spread(site: Site) -> list[Labels]:
    """Variances and deviations: over kept positions only, which must outnumber the correction."""
    x, axes = site.must("self"), _reduced(site)
    given = site.call.arg("correction", 1) if site.call.has("correction") else 1
    correction = given if site.call.arg("unbiased", True) else 0
    others = prod(len(x[axis]) for axis in axes if not site.atoms.is_live(x[axis]))
    least = int(correction // max(others, 1)) + 1
    for axis in axes:
        if least > 1 and site.atoms.is_live(x[axis]):
            site.atoms.demand(x[axis], least, site.reason(f"takes at least {least}"))
    return _reduce(site, normalised=True)


def _reduced(site: Site) -> list[int]:
    """The axes of a reduction."""
    return site.axes() if site.call.has("dim") else list(range(len(site.must("self"))))


def _reduce(site: Site, *, normalised: bool) -> list[Labels]:
    x, axes = site.must("self"), _reduced(site)
    if normalised:
        for axis in axes:
            site.atoms.mark_normalised(x[axis])
    keep = site.call.arg("keepdim", False) if site.call.has("keepdim") else False
    out = [fixed(1) if j in axes else dim for j, dim in enumerate(x) if keep or j not in axes]
    return [out for _ in site.shapes]


def along(site: Site) -> list[Labels]:
    """Ops that compare or order positions of one dimension: that dimension stays as it is."""
    x = site.must("self")
    axes = site.axes()
    site.lock([x[a] for a in axes], "over it")
    kept = [fixed(0) if j in axes else dim for j, dim in enumerate(x)]
    outputs: list[Labels] = []
    for shape in site.shapes:
        dims = kept if len(shape) == len(x) else [d for j, d in enumerate(kept) if j not in axes]
        outputs.append(
            [d if len(d) == size else fixed(size) for d, size in zip(dims, shape, strict=True)]
        )
    return outputs


def spatial(rank: int) -> Rule:
    """Pooling and resampling over the last `rank` dimensions, which stay as they are."""

    def rule(site: Site) -> list[Labels]:
        x = site.labels_of(site.call.tensors[0])
        site.lock(x[-rank:], "over its spatial axes")
        return [[*x[:-rank], *(fixed(size) for size in shape[-rank:])] for shape in site.shapes]

    return rule


def locked(site: Site, what: str = "has no rule") -> list[Labels]:
    """Lock every axis that the op touches."""
    for node in site.call.tensors:
        site.lock(site.labels_of(node), what)
    return fixed_outputs(site)


def drawn(site: Site) -> list[Labels]:
    """Random numbers: fewer of them would be others, so that no cut could be compared."""
    return locked(site, "draws random numbers, in eval mode too")


def dropout(site: Site) -> list[Labels]:
    """The first argument's labels, unless units are dropped in eval mode too."""
    return drawn(site) if site.call.arg("train") else same(site)


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


MAKERS = frozenset(
    ("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
)
"""Ops that make a tensor of one value from sizes."""

FILLED = MAKERS | {"zeros_like", "ones_like", "full_like"}
"""Ops whose result is the same wherever their argument comes from."""

EXPANDERS = frozenset(("expand", "expand_as", "broadcast_to"))
"""Ops that repeat a dimension of size one."""

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **_named(
            pointwise,
            "hardswish softplus masked_fill fill where copy polar complex zeros_like ones_like "
            "full_like mish hardtanh relu6 leaky_relu elu selu celu silu gelu logsigmoid "
            "log_sigmoid softsign threshold",
        ),
        **_named(
            same,
            "real imag _conj conj resolve_conj contiguous clone to _to_copy detach alias "
            "lift_fresh_copy",
        ),
        **_named(dropout, "dropout feature_dropout alpha_dropout feature_alpha_dropout"),
        **_named(
            drawn,
            "rand_like randn_like randint_like bernoulli normal poisson multinomial exponential",
        ),
        **_named(prelu, "prelu"),
        **_named(glu, "glu"),
        **_named(fill, " ".join(MAKERS)),
        **_named(expand, " ".join(EXPANDERS)),
        **_named(cat, "cat concat concatenate"),
        **_named(pad, "pad constant_pad_nd"),
        **_named(linear, "linear"),
        **_named(convolution, "conv1d conv2d conv3d"),
        **_named(transposed_convolution, "conv_transpose1d conv_transpose2d conv_transpose3d"),
        **_named(matmul, "matmul mm bmm mv dot"),
        **_named(addmm, "addmm baddbmm"),
        **_named(einsum, "einsum"),
        **_named(attention, "scaled_dot_product_attention"),
        **_named(batch_norm, "batch_norm instance_norm"),
        **_named(layer_norm, "layer_norm rms_norm"),
        **_named(group_norm, "group_norm"),
        **_named(channel_shuffle, "channel_shuffle"),
        **_named(as_complex, "view_as_complex"),
        **_named(as_real, "view_as_real"),
        **_named(weight_norm, "_weight_norm"),
        **_named(reduce_exact, "sum linalg_vector_norm norm"),
        **_named(reduce_normalised, "mean amax amin"),
        **_named(spread, "var std var_mean std_mean"),
        **_named(
            along,
            "cumprod sort argsort logsumexp prod kthvalue median mode nanmean nansum any all "
            "aminmax cummax cummin logcumsumexp fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 "
            "fft_ifft2 fft_fftn fft_ifftn fft_rfft2 fft_irfft2 fft_rfftn fft_irfftn",
        ),
        **_named(
            spatial(1),
            "max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d "
            "upsample_linear1d",
        ),
        **_named(
            spatial(2),
            "max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d "
            "upsample_bilinear2d upsample_bicubic2d max_pool2d_with_indices",
        ),
        **_named(
            spatial(3),
            "max_pool3d avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d upsample_nearest3d "
            "upsample_trilinear3d",
        ),
    }
)


def dead(site: Site) -> bool:
    """Whether nothing that the op reads may still be cut."""
    is_live = site.atoms.is_live
    for node in site.call.tensors:
        for dim in site.labels_of(node):
            if is_live(dim):
                return False
    return True
