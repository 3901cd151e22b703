"""Train the small recurrent network of the benchmarks on spoken digits, speakers held out.

    python bench/train_digits.py

Learns from four speakers, is judged on a fifth while it learns, and looks at the sixth once.

Suffixes: N = clips, T = frames, M = bands.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from record import Record
from schooling import Data, school
from workloads import load_module

RATE_HZ = 8000
WINDOW = 256  # samples of one frame
HOP = 128
FRAMES = 64  # about a second; longer clips are cut, shorter ones end in silence
BANDS = 24
FLOOR = 1e-5  # of the loudest band, about what silence has
SHAPE = {"hidden": 64, "classes": 10}
EPOCHS = 30
RATE = 3e-3
STRETCH = 0.2  # by which training clips are faster or slower, higher or lower
SHIFT = 0.1  # of half a clip
NOISE = 0.1
ALIKE = 16  # training clips that are changed alike


class SpokenDigits(nn.Module):
    """One GRU over the frames and a linear layer on the mean of its states.

    Args:
        hidden: Hidden units.
        classes: Words.
    """

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        self.gru = nn.GRU(BANDS, hidden, batch_first=True)
        self.classify = nn.Linear(hidden, classes)

    def forward(self, x_NTM: Tensor) -> Tensor:
        return self.classify(self.gru(x_NTM)[0].mean(1))


def filters() -> Tensor:
    """Triangles evenly spaced on the mel scale, `(bins, BANDS)`."""
    top = 2595 * math.log10(1 + RATE_HZ / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, BANDS + 2) / 2595) - 1)
    bins = torch.linspace(0, RATE_HZ / 2, WINDOW // 2 + 1)[:, None]
    up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(up, down).clamp_min(0)


def features(clip: Tensor, bank: Tensor) -> Tensor:
    """Log energies of one clip about the mean of each band, `(FRAMES, BANDS)`.

    What a speaker and a microphone add to every frame is gone with the means.
    """
    room = FRAMES * HOP
    wave = F.pad(clip[:room], (0, max(0, room - len(clip))))
    spectrum = torch.stft(
        wave, WINDOW, HOP, window=torch.hann_window(WINDOW), center=True, return_complex=True
    )
    energies = spectrum.abs().square().T[:FRAMES] @ bank
    logs = (energies / energies.max() + FLOOR).log()
    return (logs - logs.mean(0)) / logs.std()


def data() -> Data:
    """Four speakers to learn from, one to judge by, one to report on, in alphabetical order."""
    bank, found = filters(), dict[str, tuple[list[Tensor], list[int]]]()
    for clip, digit, speaker in load_module().spoken_digits():
        clips, digits = found.setdefault(speaker, ([], []))
        clips.append(features(torch.from_numpy(clip).float() / 2**15, bank))
        digits.append(digit)
    *learn, judge, report = sorted(found)

    def part(speakers: list[str]) -> tuple[Tensor, Tensor]:
        clips = [c for s in speakers for c in found[s][0]]
        return torch.stack(clips), torch.tensor([d for s in speakers for d in found[s][1]])

    return Data(part(learn), part([judge]), part([report]), moved)


def moved(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Clips stretched in time and pitch and shifted, a few at a time, with noise."""

    def drawn(most: float) -> float:
        return most * (2 * float(torch.rand((), generator=generator)) - 1)

    made = []
    for some in clips.split(ALIKE):
        pitch, pace, shift = 1 + drawn(STRETCH), 1 + drawn(STRETCH), drawn(SHIFT)
        # the lowest band and the first frame stay where they are
        turn = torch.tensor([[pitch, 0, pitch - 1], [0, pace, pace - 1 + shift]])
        size = (len(some), 1, *some.shape[1:])
        grid = F.affine_grid(turn.expand(len(some), 2, 3), size, align_corners=False)
        made.append(F.grid_sample(some[:, None], grid, padding_mode="border", align_corners=False))
    warped = torch.cat(made)[:, 0]
    return warped + NOISE * torch.randn(warped.shape, generator=generator)


def model() -> SpokenDigits:
    """The network, untrained."""
    return SpokenDigits(**SHAPE)


def main() -> None:
    """Train what is not trained yet."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = Record("networks", "How were the benchmarks' own networks trained?", "bench/train_*.py")
    if not rows.has(network="digits"):
        rows.add({**school("digits", model(), data(), epochs=EPOCHS, rate=RATE), **SHAPE})


if __name__ == "__main__":
    main()
