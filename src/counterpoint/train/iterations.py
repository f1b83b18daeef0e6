"""What a run on its own samples keeps after every iteration, so that a killed one goes on with the same bits."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from counterpoint.artifacts import publish, read_json, write_json
from counterpoint.train.checkpoints import STATE, newest_checkpoint
from counterpoint.types import CounterpointError

TENSORS = "tensors.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")

Log = list[dict[str, float]]
"""What each iteration logged."""


def save(work: Path, parameters: Sequence[nn.Parameter], optimizer: Optimizer, log: Log) -> None:
    """Publish all that the next iteration needs under its number, then remove what it replaces."""
    tensors = {f"p{i}": parameter.detach().contiguous() for i, parameter in enumerate(parameters)}
    for i, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"p{i}.{name}": moments[name].contiguous() for name in _MOMENTS}
    folder = work / f"checkpoint-{len(log)}"
    with publish(folder) as staging:
        save_file(tensors, staging / TENSORS)
        write_json(staging / STATE, log)
    for other in work.glob("*checkpoint-*"):  # those before, and what a kill left half-written
        if other != folder:
            shutil.rmtree(other)


def restore(work: Path, parameters: Sequence[nn.Parameter], optimizer: Optimizer) -> Log:
    """Put parameters and moments back as the newest checkpoint has them, and return its log: empty without one."""
    folder = newest_checkpoint(work)
    if folder is None:
        return []
    tensors = load_file(folder / TENSORS)
    _check_shapes(folder, tensors, parameters)
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(tensors[f"p{i}"])
    trained = [i for i in range(len(parameters)) if f"p{i}.step" in tensors]  # AdamW passes over what has no gradient
    state = {i: {name: tensors[f"p{i}.{name}"] for name in _MOMENTS} for i in trained}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    log: Log = read_json(folder / STATE)
    return log


def _check_shapes(folder: Path, tensors: dict[str, Tensor], parameters: Sequence[nn.Parameter]) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if "." not in name}
    if found != {f"p{i}": tuple(parameter.shape) for i, parameter in enumerate(parameters)}:
        raise CounterpointError(f"{folder}: is of another model than the one to train; remove it to start from nothing")
