"""Train the small text encoder of the benchmarks on SST-2, with a vocabulary of its own words.

    python bench/train_text.py

Learns from the training sentences, is judged on the development sentences while it learns, and
looks at the test sentences once.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from encoders import TextEncoder
from record import Record, data_folder
from schooling import Data, school

LENGTH = 48
SPECIAL = 3  # padding, start, unknown
AT_LEAST = 2  # times that a word must occur
SHAPE = {"width": 96, "heads": 4, "hidden": 384, "depth": 3}
EPOCHS = 14
RATE = 1e-3
HIDDEN = 0.1  # share of words replaced by the unknown one in training


def sentences(part: str) -> tuple[list[list[str]], Tensor]:
    """Words and labels of "train", "dev" or "test"."""
    path: Path = data_folder() / "text" / f"sst2-{part}.tsv"
    lines = [line.rsplit("\t", 1) for line in path.read_text("utf-8").splitlines()]
    return [text.split() for text, _ in lines], torch.tensor([int(label) for _, label in lines])


def vocabulary() -> dict[str, int]:
    """Number of each word of the training sentences that occurs often enough."""
    counts = Counter(word for words in sentences("train")[0] for word in words)
    common = sorted(w for w, n in counts.items() if n >= AT_LEAST)
    return {word: SPECIAL + i for i, word in enumerate(common)}


def encoded(part: str, known: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Token ids `(sentences, LENGTH)` and labels."""
    texts, labels = sentences(part)
    tokens = torch.zeros(len(texts), LENGTH, dtype=torch.int64)
    for row, words in zip(tokens, texts, strict=True):
        ids = [1, *(known.get(w, 2) for w in words)][:LENGTH]
        row[: len(ids)] = torch.tensor(ids)
    return tokens, labels


def hidden(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Some words made unknown, so that the unknown word means something."""
    gone = (torch.rand(tokens.shape, generator=generator) < HIDDEN) & (tokens >= SPECIAL)
    return tokens.masked_fill(gone, 2)


def data() -> Data:
    """SST-2 as token ids."""
    known = vocabulary()
    return Data(*(encoded(part, known) for part in ("train", "dev", "test")), hidden)


def model() -> TextEncoder:
    """The network, untrained."""
    return TextEncoder(SPECIAL + len(vocabulary()), LENGTH, **SHAPE)


def main() -> None:
    """Train what is not trained yet."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = Record("networks", "How were the benchmarks' own networks trained?", "bench/train_*.py")
    if not rows.has(network="text"):
        rows.add({**school("text", model(), data(), epochs=EPOCHS, rate=RATE), **SHAPE})


if __name__ == "__main__":
    main()
