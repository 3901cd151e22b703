"""Within the same bytes: fewer channels, more zeros, fewer bits, or all decided together?

    python bench/joint.py --network kws --share 0.08 --way all
    python bench/joint.py --all          every missing row, one after the other

ResNet-20 on CIFAR-10 and DS-CNN on keywords as integer networks of the same file size: weights as
`save` packs them, biases and scales, a share of the network in floats. No labels, no training.
"channels" and "zeros" keep 8 bits, "bits" keeps the network as it is, the others are one
allocation over all that they name. Every network is then rounded by GPTQ on the same samples. At
most 1000 samples to calibrate; the test set is looked at once per row. Accuracy is that of the
simulation, whose integers are those of the file.
"""

from __future__ import annotations

import tempfile
import time

import torch

import penjing as pj
from penjing.errors import InfeasibleError
from record import paired_interval
from shares import Question
from workloads import Workload

NETWORKS = ("kws", "resnet20")
SAMPLES = 1000  # to calibrate; at most half of what a network has
SHARES = (0.16, 0.1, 0.07)
WAYS = {
    "channels": ({"inner", "bits"}, (8,)),
    "zeros": ({"weights", "bits"}, (8,)),
    "bits": (None, (2, 4, 8)),
    "channels and bits": ({"inner", "bits"}, (2, 4, 8)),
    "zeros and bits": ({"weights", "bits"}, (2, 4, 8)),
    "all": ({"inner", "weights", "bits"}, (2, 4, 8)),
}
ROUNDING = "gptq"


def made(way: str, job: Workload, x: torch.Tensor, share: float, seed: int) -> pj.Quantized:
    """The integer network of these bytes.

    Raises:
        InfeasibleError: This way does not become so small.
    """
    scope, bits = WAYS[way]
    how = {"calibration": [x], "seed": seed}
    if scope is None:
        return pj.quantize(
            job.model,
            x[:1],
            constraints={"weight_bytes": _bytes_of_weights(job, x, share, how)},
            rounding=ROUNDING,
            **how,
        )
    cut = pj.prune(
        job.model,
        x[:1],
        constraints={"size_kb": f"{100 * share}%"},
        scope=scope,
        weight_bits=bits,
        **how,
    )
    return pj.quantize(cut.model, x[:1], weight_bits_dict=cut.plan.bits, rounding=ROUNDING, **how)


def _bytes_of_weights(job: Workload, x: torch.Tensor, share: float, how: dict) -> float:
    """What all but weights and their scales leave of the bytes."""
    network = pj.quantize(job.model, x[:1], **how).model.network
    tensors = network.program.tensors
    weights = sum(tensors[n].numel() + 4 * g.scale.numel() for n, g in network.weights.items())
    whole = 4 * sum(p.numel() for p in job.model.parameters())
    left = share * whole - (network.size_bytes() - weights)
    if left <= 0:
        raise InfeasibleError(f"biases alone take more than {share:.0%} of the bytes", {})
    return left


def row(job: Workload, way: str, share: float, seed: int) -> dict:
    """Make it, weigh it, look at the test set once."""
    x = job.calibration(seed, min(SAMPLES, job.pool // 2))
    asked = {"network": job.name, "share": share, "way": way, "seed": seed}
    start = time.process_time()
    try:
        done = made(way, job, x, share, seed)
    except InfeasibleError as error:
        return {**asked, "infeasible": str(error)}
    spent = time.process_time() - start
    network, after = done.model.network, job.correct(done.model)
    layers = {f"{name}.weight": bits for name, bits in network.layer_bits.items()}
    kept = [network.integers(name) for name in layers if name in network.weights]
    with tempfile.TemporaryDirectory() as folder:
        written = pj.save(done.model, folder) / "model.safetensors"
        file_bytes = written.stat().st_size
    original = 4 * sum(p.numel() for p in job.model.parameters())
    return {
        **asked,
        "stored_bytes": network.size_bytes(),
        "share_of_floats": network.size_bytes() / original,
        "file_bytes": file_bytes,
        "weights_left": sum(q.numel() for q in kept),
        "nonzero": sum(int(q.count_nonzero()) for q in kept),
        "layer_bits": dict(network.layer_bits),
        "dense": 100 * job.quality(job.dense()),
        "top1": 100 * job.quality(after),
        "difference_points": paired_interval(after, job.dense()),
        "samples": len(x),
        "test_samples": len(job.labels),
        "cpu_seconds": spent,
    }


QUESTION = Question("joint", __doc__.splitlines()[0], NETWORKS, SHARES, WAYS, row)

if __name__ == "__main__":
    QUESTION.main()
