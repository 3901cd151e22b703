"""What a report measures on calibration data, and on how much of it."""

import torch
from torch import nn

from penjing.graph.capture import capture
from penjing.task import Calibration
from penjing.verbs.soundness import TELLING, telling_batches, whole_batches

X = torch.zeros(TELLING + 300, 3)


def test_agreement_is_measured_on_a_few_thousand_samples_at_most():
    program = capture(nn.Linear(3, 2), X[:2])
    batches = telling_batches(program, Calibration.of([X]))
    assert sum(len(batch.inputs) for batch in batches) == TELLING


def test_a_bound_on_agreement_is_measured_on_all_samples():
    program = capture(nn.Linear(3, 2), X[:2])
    batches = whole_batches(program, Calibration.of([X]))
    assert sum(len(batch.inputs) for batch in batches) == len(X)
