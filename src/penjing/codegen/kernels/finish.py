"""Activations: in the vectors where that is a few instructions, else in a loop of their own."""

from __future__ import annotations

from penjing.codegen.ir import Activation, Layer
from penjing.codegen.kernel import Site
from penjing.codegen.kernels.vectors import activated
from penjing.codegen.reference.expression import activation_c


def in_vectors(layer: Layer) -> Activation | None:
    """The activation if the vectors can apply it, else None."""
    found = layer.activation
    return None if activated(found, 4, "v") is None else found


def after_loop(site: Site) -> tuple[str, dict[str, str]]:
    """Statements and functions that apply what the vectors could not."""
    found = site.layer.activation
    if found is None or in_vectors(site.layer) is not None:
        return "", {}
    name, functions = activation_c(found)
    y = site.outputs[0]
    order = sorted(range(len(y.shape)), key=lambda i: -y.strides[i])
    loops = "".join(f"for (int i{i} = 0; i{i} < {y.shape[i]}; i{i}++) " for i in order)
    at = " + ".join(f"i{i} * {y.strides[i]}" for i in order)
    text = f"\n{loops}{{ float *p = {y.pointer} + {at}; *p = {name}(*p); }}\n"
    return text, dict(functions)
