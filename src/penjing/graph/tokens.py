"""Fewer tokens: functions that graphs of transformers call where tokens are merged or dropped.

Suffixes: B = batch, T = tokens, K = tokens that stay, R = tokens that go, D = width, H = heads,
E = head dim, A, N = the two halves between which tokens are matched.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def merge_tokens(
    x_BTD: Tensor, keys_BHTE: Tensor, size_BT: Tensor | None, r: int, protected: int
) -> tuple[Tensor, Tensor]:
    """Merge the `r` most similar pairs of tokens, each into the mean of what it stands for.

    Tokens at even places are matched with those at odd places, by the keys that attention has
    just compared. Protected tokens stay as they are, at the front.

    Args:
        x_BTD: The stream.
        keys_BHTE: Keys of the attention before it.
        size_BT: How many tokens each one stands for; None is one each.
        r: Tokens that go, at most half of those that are not protected.
        protected: Tokens at the front that are not merged away, 0 or 1.

    Returns:
        The shorter stream, and how many tokens each one stands for.

    Source:
        Bolya et al. 2023, arXiv:2210.09461 (ToMe).
    """
    metric_BTE = F.normalize(keys_BHTE.mean(1), dim=-1)
    if size_BT is None:
        size_BT = torch.ones_like(x_BTD[..., 0])
    scores_BAN = metric_BTE[:, ::2] @ metric_BTE[:, 1::2].transpose(1, 2)
    if protected:
        blocked = torch.zeros_like(scores_BAN[:1, :, :1])
        blocked[:, 0] = math.inf
        scores_BAN = scores_BAN - blocked
    best_BA, partner_BA = scores_BAN.max(-1)
    order_BA = _descending(best_BA)
    source_BR, stays_BK = order_BA[:, :r], _ascending(order_BA[:, r:])
    target_BR = partner_BA.gather(1, source_BR)
    weighted_BTD = torch.cat([x_BTD * size_BT[..., None], size_BT[..., None]], -1)
    even, odd = weighted_BTD[:, ::2], weighted_BTD[:, 1::2]
    width = weighted_BTD.shape[-1]
    moved = even.gather(1, source_BR[..., None].expand(-1, -1, width))
    joined = odd.scatter_add(1, target_BR[..., None].expand(-1, -1, width), moved)
    kept = even.gather(1, stays_BK[..., None].expand(-1, -1, width))
    together = torch.cat([kept, joined], 1)
    size_BK = together[..., -1]
    return together[..., :-1] / size_BK[..., None], size_BK


def drop_by_attention(  # noqa: PLR0913 - called by graphs, with what an attention layer takes
    x_BTD: Tensor,
    queries_BHTE: Tensor,
    keys_BHTE: Tensor,
    r: int,
    protected: int,
    scale: float | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Drop the `r` tokens that get the least attention, the others in order.

    Args:
        x_BTD: The stream.
        queries_BHTE: Of the attention before it; with a protected token, where it sees others, its
            attention counts, else the mean over all.
        keys_BHTE: Likewise.
        r: Tokens that go.
        protected: Tokens at the front that stay, 0 or 1.
        scale: Of the scores; None is one over the root of the head dim.
        mask: Of the attention: True where a token sees another, or a number added to the scores.
        causal: Whether a token sees only itself and those before it.

    Returns:
        The shorter stream.

    Source:
        Liang et al. 2022, arXiv:2202.07800 (EViT; there the rest becomes one token more).
    """
    if protected and not causal:
        queries_BHTE = queries_BHTE[:, :, :1]
        mask = mask[..., :1, :] if mask is not None else None
    factor = 1 / math.sqrt(keys_BHTE.shape[-1]) if scale is None else scale
    scores = queries_BHTE @ keys_BHTE.transpose(-2, -1) * factor
    if causal:
        mask = torch.ones_like(scores[:1, :1], dtype=torch.bool).tril()
    if mask is not None:
        boolean = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, -math.inf) if boolean else scores + mask
    looked_BHTT = scores.softmax(-1)
    if mask is not None:
        looked_BHTT = looked_BHTT.nan_to_num()  # rows that see nothing
    return _kept(x_BTD, looked_BHTT.mean((1, 2)), r, protected)


def drop_by_norm(x_BTD: Tensor, r: int, protected: int) -> Tensor:
    """Drop the `r` tokens of the smallest norm, the others in order.

    Args:
        x_BTD: The stream.
        r: Tokens that go.
        protected: Tokens at the front that stay, 0 or 1.

    Returns:
        The shorter stream.
    """
    return _kept(x_BTD, x_BTD.square().sum(-1), r, protected)


def size_bias(size_BT: Tensor) -> Tensor:
    """What attention adds to its scores so that a token counts as many as it stands for.

    Args:
        size_BT: How many tokens each one stands for.

    Returns:
        Logarithms, `(B, 1, 1, T)`.
    """
    return size_BT.log()[:, None, None]


def weighted_mean(x: Tensor, size_BT: Tensor, dim: int, keepdim: bool) -> Tensor:
    """The mean over all tokens that the present ones stand for.

    Args:
        x: `(B, T, D)`, or with T and D changed round.
        size_BT: How many tokens each one stands for.
        dim: Where the tokens are, 1 or 2.
        keepdim: Whether the dimension stays, of length one.

    Returns:
        `x` without it.
    """
    weights = size_BT / size_BT.sum(1, keepdim=True)
    return (x * weights.unsqueeze(3 - dim)).sum(dim, keepdim=keepdim)


def _kept(x_BTD: Tensor, scores_BT: Tensor, r: int, protected: int) -> Tensor:
    order_BT = _descending(scores_BT[:, protected:])
    stays_BK = _ascending(order_BT[:, : order_BT.shape[1] - r]) + protected
    rest = x_BTD.gather(1, stays_BK[..., None].expand(-1, -1, x_BTD.shape[-1]))
    return torch.cat([x_BTD[:, :protected], rest], 1)


def _descending(values: Tensor) -> Tensor:
    """Places of the values in the last dimension, the largest first; runtimes have `topk`."""
    return values.topk(values.shape[-1], dim=-1).indices


def _ascending(values: Tensor) -> Tensor:
    return values.topk(values.shape[-1], dim=-1, largest=False).values
