"""Schemes: how many bits weights and activations get."""

from __future__ import annotations

from dataclasses import dataclass

from penjing.errors import StrategyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Bits and kinds of grids of a whole network.

    Args:
        weight_bits: 1 (binary), 2 (ternary), 3 to 8; 7 for x86 without VNNI, whose 16-bit sums of
            two products overflow with 8.
        activation_bits: 8 (affine) or 16 (symmetric).
        per_channel: A scale per output channel of a layer instead of one per weight.
        power_of_two: Scales are powers of two, for cores that shift but do not multiply.

    Raises:
        StrategyError: A number of bits that no format has.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    per_channel: bool = True
    power_of_two: bool = False

    def __post_init__(self) -> None:
        whole = type(self.weight_bits) is int and 1 <= self.weight_bits <= 8
        if not whole or self.activation_bits not in {8, 16}:
            raise StrategyError(
                f"weights of {self.weight_bits} and activations of {self.activation_bits} bits: "
                "weights have 1 to 8 bits, activations 8 or 16"
            )

    def __str__(self) -> str:
        known = next((name for name, scheme in _NAMED if scheme == self), "")
        kind = "" if self.per_channel else ", one scale per tensor"
        shift = ", scales are powers of two" if self.power_of_two else ""
        bits = f"{self.weight_bits}-bit weights, {self.activation_bits}-bit activations"
        return known or f"{bits}{kind}{shift}"


_NAMED = (
    ("int8", Scheme()),
    ("int8x16", Scheme(activation_bits=16)),
    ("int7", Scheme(weight_bits=7)),
    ("int4", Scheme(weight_bits=4)),
    ("ternary", Scheme(weight_bits=2)),
    ("binary", Scheme(weight_bits=1)),
    ("int8-shift", Scheme(power_of_two=True)),
)

NAMES = tuple(name for name, _ in _NAMED)
"""Short names that `resolve` knows; the number is that of the weights' bits."""


def resolve(scheme: str | Scheme) -> Scheme:
    """A scheme from its short name, or the object itself.

    Args:
        scheme: One of `NAMES`, or a `Scheme`.

    Returns:
        The scheme.

    Raises:
        StrategyError: The name is not known.

    Example:
        >>> resolve("int4").weight_bits
        4
    """
    if isinstance(scheme, Scheme):
        return scheme
    found = dict(_NAMED).get(scheme) if isinstance(scheme, str) else None
    if found is None:
        raise StrategyError(
            f"scheme is {scheme!r}; known are {', '.join(map(repr, NAMES))}, or a Scheme"
        )
    return found
