"""What a controller costs on one CUDA GPU, at the shape of 7 B parameters.

    python -m benchmarks.gpu_mope > gpu_mope.json      # about 30 GB of GPU memory
    python -m benchmarks.gpu_mope --small              # a pico shape on the CPU: that it runs, not how fast

Random parameters in bfloat16: 32 layers of 4096, 32 heads, 32,000 tokens; six rank-16 experts on all projections; a
controller of 160 M. Each profile wants three experts, others from one profile to the next, or all six. The table goes
to the standard error, JSON to the standard output.
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.models import linear_shapes, random_adapter
from benchmarks.mope import decode, mixed, mope, random_controller, steered
from benchmarks.ours import names, one
from counterpoint.compose.plan import Plan
from counterpoint.decode.rows import Rows
from counterpoint.models.bank import LoraBank
from counterpoint.models.controller import ControllerModel

EXPERTS = 6
LARGE = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "intermediate_size": 11008, "vocab_size": 32000,
}  # fmt: skip
SMALL = {
    "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 172, "vocab_size": 2048,
}  # fmt: skip
CONTROLLER = {"large": 160 * 10**6, "small": 2 * 10**5}


@dataclass(frozen=True)
class Measured:
    """One method at one load; `controller_share` is (time of its step - time of the mixture's) / time of its step."""

    method: str
    profiles: int
    tokens_per_second: float
    ms_per_step: float
    controller_share: float | None
    peak_memory_gb: float | None


def random_base(shape: dict[str, int], device: str) -> Any:
    """A Llama of a shape, in bfloat16 on a device."""
    config = LlamaConfig(**shape, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def banked(model: Any) -> LoraBank:
    """The model's bank with six random experts."""
    shapes = linear_shapes(model)
    bank = LoraBank(model)
    for index, name in enumerate(names(EXPERTS)):
        bank.add(name, random_adapter(shapes, index))
    return bank


def wanted(profile: int, experts: int) -> list[str]:
    """The experts of a profile: so many neighbours of the six, another first one for each profile."""
    return [names(EXPERTS)[(profile + step) % EXPERTS] for step in range(experts)]


def plans(method: str, profiles: int) -> list[Plan]:
    kind, _, experts = method.partition(" of ")
    if kind == "one expert":
        return [one(profile % EXPERTS) for profile in range(profiles)]
    sets = [wanted(profile, int(experts)) for profile in range(profiles)]
    return [mixed(names_) if kind == "mixture-prob" else mope(names_, names(EXPERTS)) for names_ in sets]


def measure(
    model: Any, bank: LoraBank, controller: ControllerModel, loads: Sequence[int], tokens: int
) -> Iterator[Measured]:
    """Every method at every load, each in an engine of its own, so that its memory is its own too."""
    for profiles in loads:
        constant: dict[str, float] = {}
        for method in ("one expert", "mixture-prob of 3", "mope of 3", "mixture-prob of 6", "mope of 6"):
            speed, memory = speed_of(model, bank, controller, plans(method, profiles), tokens)
            kind, _, experts = method.partition(" of ")
            share = 1 - speed / constant[experts] if kind == "mope" else None
            if kind == "mixture-prob":
                constant[experts] = speed
            yield Measured(method, profiles, speed, 1e3 * profiles / speed, share, memory)


def speed_of(
    model: Any, bank: LoraBank, controller: ControllerModel, asked: Sequence[Plan], tokens: int
) -> tuple[float, float | None]:
    """Tokens per second over all requests, the median of three, and the most memory in use, in GB."""
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    engine = steered(Rows(model, bank), controller)
    decode(engine, asked, tokens)
    speed = statistics.median(decode(engine, asked, tokens) for _ in range(3))
    return speed, torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None


def table_of(rows: Sequence[Measured]) -> Table:
    table = Table("profiles", "method", "tok/s", "ms a step", "controller's share", "peak memory, GB", box=None)
    for row in rows:
        share = "-" if row.controller_share is None else f"{row.controller_share:.1%}"
        memory = "-" if row.peak_memory_gb is None else f"{row.peak_memory_gb:.1f}"
        speed, took = f"{row.tokens_per_second:.1f}", f"{row.ms_per_step:.2f}"
        table.add_row(str(row.profiles), row.method, speed, took, share, memory)
    return table


def main(
    small: Annotated[bool, typer.Option(help="A pico shape on the CPU, to see that it runs.")] = False,
    tokens: Annotated[int, typer.Option(help="Tokens of each response.")] = 0,
) -> None:
    """Measure and print."""
    console = Console(stderr=True)
    if not small and not torch.cuda.is_available():
        console.print("no CUDA GPU here; --small runs a pico shape on the CPU")
        raise typer.Exit(1)
    device, size = ("cpu", "small") if small else ("cuda", "large")
    hardware = "CPU" if small else torch.cuda.get_device_name()
    loads, tokens = ((1, 2), tokens or 4) if small else ((1, 8, 32), tokens or 64)
    torch.manual_seed(0)
    with console.status("making a random model"):
        model = random_base(SMALL if small else LARGE, device)
        controller = random_controller(model, CONTROLLER[size], names(EXPERTS))
    parameters = {"base": _size(model), "controller": _size(controller)}
    with console.status("decoding"):
        rows = list(measure(model, banked(model), controller, loads, tokens))
    console.print(f"{hardware}, torch {torch.__version__}, parameters: {parameters}, {tokens} tokens a response")
    console.print(table_of(rows))
    about = {"hardware": hardware, "torch": torch.__version__, "parameters": parameters, "tokens": tokens}
    print(json.dumps(about | {"rows": [asdict(row) for row in rows]}, indent=2))


def _size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    typer.run(main)
