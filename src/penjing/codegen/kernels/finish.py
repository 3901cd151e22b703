"""Activations: in the vectors where that is a few instructions, else in a loop of their own."""

from __future__ import annotations

from math import prod

from penjing.codegen.ir import Activation, Layer
from penjing.codegen.kernel import Site
from penjing.codegen.kernels.cover import named
from penjing.codegen.kernels.vectors import activated, types
from penjing.codegen.reference.expression import activation_c

WIDE = 16
"""Lanes; compilers take vectors apart that are wider than the machine's."""


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


def finish_rows(site: Site) -> tuple[str, dict[str, str]]:
    """Residual and activation over the finished outputs of a linear layer, row by row.

    Args:
        site: Of a layer whose tensors are packed.

    Returns:
        Statements and functions.
    """
    layer = site.layer
    outs = site.outputs[0].shape[-1]
    act = in_vectors(layer)
    with_z = len(site.inputs) > 1
    if act is None and not with_z:
        return "", {}
    full, rest = divmod(outs, WIDE)
    z = "v += *(const pj_vf16 *)(z + i); " if with_z else ""
    body = f"pj_vf16 v = *(pj_vf16 *)(y + i); {z}{activated(act, WIDE, 'v') or ''}"
    tail = ""
    if rest:
        one = f"pj_vf16 v = {{0}}; for (int j = 0; j < {rest}; j++) v[j] = y[{full * WIDE} + j]"
        one += f"{f' + z[{full * WIDE} + j]' if with_z else ''};"
        tail = (
            f"{{ {one} {activated(act, WIDE, 'v') or ''}"
            f"for (int j = 0; j < {rest}; j++) y[{full * WIDE} + j] = v[j]; }}"
        )
    name, text = named("pj_finish", f"""
static void @NAME@(float *y{", const float *z" if with_z else ""}) {{
    for (int i = 0; i < {full * WIDE}; i += {WIDE}) {{ {body}*(pj_vf16 *)(y + i) = v; }}
    {tail}
}}
""")  # fmt: skip
    places = (site.outputs[0], *site.inputs[1:])
    arguments = ", ".join(f"{p.pointer} + m * {outs}" for p in places)
    count = prod(site.outputs[0].shape[:-1])
    call = f"for (int m = 0; m < {count}; m++) {name}({arguments});\n"
    return call, {**types(WIDE), name: text}
