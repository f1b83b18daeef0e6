"""In which order examples are trained on: the whole run's order is fixed before its first step.

So a resumed run skips what it has seen and goes on exactly as the unbroken one, in whichever epoch it was killed.
(A `LengthGroupedSampler` of transformers draws each epoch from the global generator, and cannot promise that.)
"""

from collections.abc import Sequence

import torch

WINDOW = 16


def batch_order(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[int]:
    """Indices of `steps` full batches, one after another, with examples of like length in the same batch.

    Shuffled epochs are laid end to end, and cut into windows of 16 batches; each window is sorted by length, cut into
    batches, and the batches are shuffled. Every example is seen as often as any other, give or take one. What it
    saves is padding.
    """
    generator = torch.Generator().manual_seed(seed)
    stream: list[int] = []
    while len(stream) < steps * batch:
        stream += torch.randperm(len(lengths), generator=generator).tolist()
    order: list[int] = []
    for start in range(0, steps * batch, WINDOW * batch):
        order += _grouped(stream[start : min(start + WINDOW * batch, steps * batch)], lengths, batch, generator)
    return order


def _grouped(window: list[int], lengths: Sequence[int], batch: int, generator: torch.Generator) -> list[int]:
    by_length = sorted(window, key=lambda i: lengths[i])
    batches = [by_length[start : start + batch] for start in range(0, len(by_length), batch)]
    return [i for b in torch.randperm(len(batches), generator=generator).tolist() for i in batches[b]]
