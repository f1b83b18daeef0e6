"""`make bench`: Counterpoint's engine against its peers, a table on the screen and `bench.json`.

25 minutes with all peers, and as long again for gates; nothing else should run. `--only WORD` takes the rows whose
names hold a word.
LLAMA_SERVER=FOLDER adds llama-server (benchmarks/llama_server.py), and MERGEKIT=FOLDER mergekit (benchmarks/merge.py).
"""

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import llama_server, merge, peers
from benchmarks.merge_adapters import adapter_merges
from benchmarks.models import prepare, random_adapter, shapes_of
from benchmarks.mope import bandwidth, mope_of_eight, mope_parts, mope_step, rebel_large, rebel_world
from benchmarks.ours import Bench, gate, mixed, one, profiles
from benchmarks.pmol import pmol_decode, pmol_decode_of_eight, pmol_memory, pmol_prefill, pmol_train, pmol_x_lora
from benchmarks.timing import Row, in_turn, seconds
from counterpoint.artifacts import write_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOKENS = 32


def one_expert(folder: Path, dtype: str) -> Iterator[Row]:
    """One adapter through the bank, by our forward and by the model's modules, against `generate` of it merged."""
    ours, theirs = Bench(folder, DTYPES[dtype]), peers.merged(folder, DTYPES[dtype], 0)
    modules = Bench(folder, DTYPES[dtype])
    modules.rows.own_forward = False
    own, through, slow = in_turn(
        lambda: ours.whole([one()], TOKENS),
        lambda: modules.whole([one()], TOKENS),
        lambda: peers.generate(theirs, TOKENS),
    )
    bf16 = dtype == "bfloat16"
    yield Row(f"one expert, {dtype}: generate of the merged model", own, slow, "tok/s", "ratio >= 1.0", bf16)
    name = f"one expert through modules, {dtype}: generate of the merged model"
    yield Row(name, through, slow, "tok/s", "ratio >= 0.9", bf16)


def mixture_against_one(folder: Path, dtype: str) -> Iterator[Row]:
    """K experts mixed token by token, against one expert in the same engine."""
    ours = Bench(folder, DTYPES[dtype])
    single, three, six = in_turn(*(lambda k=k: ours.decode([mixed(k)], TOKENS) for k in (1, 3, 6)))
    goals = ("ratio >= 0.80", "ratio >= 0.65") if dtype == "bfloat16" else ("", "")
    yield Row(f"mixture of 3, {dtype}: one expert, same engine", three, single, "tok/s", goals[0], True)
    yield Row(f"mixture of 6, {dtype}: one expert, same engine", six, single, "tok/s", goals[1], True)
    limit = bandwidth() / step_bytes(ours)
    yield Row(f"one expert, {dtype}: bandwidth limit", single, limit, "tok/s")


def mixture_against_models(folder: Path, dtype: str) -> Iterator[Row]:
    """Four experts mixed token by token, against four whole models stepped in turn."""
    ours = Bench(folder, DTYPES[dtype])
    theirs = peers.in_turn_models([peers.merged(folder, DTYPES[dtype], index) for index in range(4)])
    fast, slow = in_turn(lambda: ours.decode([mixed(4)], TOKENS), lambda: peers.decode(theirs, TOKENS))
    yield Row(f"mixture of 4, {dtype}: 4 separate models", fast, slow, "tok/s", "ratio >= 2.2", dtype[0] == "b")


def mixture_against_peft(folder: Path, dtype: str) -> Iterator[Row]:
    """Four experts mixed token by token, against PEFT's mixed batch of four adapters."""
    ours = Bench(folder, DTYPES[dtype])
    theirs = peers.mixed_batch(peers.peft_model(folder, DTYPES[dtype], 4), 4)
    fast, slow = in_turn(lambda: ours.decode([mixed(4)], TOKENS), lambda: peers.decode(theirs, TOKENS))
    goal = "ratio >= 1.6" if dtype == "float32" else ""
    yield Row(f"mixture of 4, {dtype}: PEFT mixed batch", fast, slow, "tok/s", goal)


def many_profiles(folder: Path, dtype: str) -> Iterator[Row]:
    """Eight requests with eight 4-expert profiles, against the same load with one profile."""
    ours = Bench(folder, DTYPES[dtype])
    different, alike = in_turn(
        lambda: ours.decode(profiles(8, alike=False), TOKENS), lambda: ours.decode(profiles(8, alike=True), TOKENS)
    )
    yield Row(f"8 requests, 8 profiles, {dtype}: one profile", different, alike, "tok/s", "ratio >= 0.85")


def against_llama_server(folder: Path, dtype: str) -> Iterator[Row]:
    """Eight requests with eight 4-expert profiles, prefill and all, against llama-server at equal precision."""
    server = llama_server.find()
    if server is None:
        return
    ours = Bench(folder, DTYPES[dtype])
    with llama_server.serving(server, folder, dtype) as theirs:
        fast, slow = in_turn(lambda: ours.whole(profiles(8, alike=False), 96), lambda: theirs.profiles(8, 96), rounds=3)
    yield Row(f"8 requests, 8 profiles, {dtype}: llama-server", fast, slow, "tok/s", "ratio >= 2.0", dtype[0] == "b")


def resident(folder: Path, dtype: str) -> Iterator[Row]:
    """A step with four active adapters of 64 resident ones, against four of eight."""
    few, many = Bench(folder, DTYPES[dtype]), Bench(folder, DTYPES[dtype])
    for bench, count in ((few, 8), (many, 64)):
        for index in range(len(bench.bank.experts), count):
            bench.bank.add(f"e{index}", random_adapter(shapes_of(bench.bank.experts["e0"]), index))
    slow, fast = in_turn(
        lambda: 1e3 / many.decode(profiles(1, alike=True), TOKENS),
        lambda: 1e3 / few.decode(profiles(1, alike=True), TOKENS),
    )
    yield Row(f"4 active of 64 resident, {dtype}: of 8 resident", slow, fast, "ms/step", "ratio <= 1.1")


def switching(folder: Path, dtype: str) -> Iterator[Row]:
    """Another profile for a request, against PEFT's merge of the same adapters into another active one."""
    ours = Bench(folder, DTYPES[dtype])
    theirs = peers.peft_model(folder, DTYPES[dtype], 4)
    ours.bank.gate([gate(0)])
    turn = iter(range(10**6))
    (took,) = in_turn(lambda: 1e3 * seconds(lambda: ours.bank.gate([gate(next(turn) % 8)])), rounds=21)
    for kind in ("cat", "svd"):
        peft = peers.add_weighted(theirs, kind, (0.1, 0.3, 0.2, 0.4), repeats=3 if kind == "cat" else 1)
        yield Row(f"switch a profile, {dtype}: PEFT add_weighted_adapter {kind}", took, peft, "ms", "ours <= 1.0")


def step_bytes(bench: Bench) -> int:
    """What one step of one expert has to read: every parameter once (a tied embedding is the output layer)."""
    base = int(sum(p.numel() * p.element_size() for p in bench.model.parameters()))
    return base + bench.bank.experts["e0"].size * int(bench.model.dtype.itemsize)


PARTS: tuple[tuple[Callable[[Path, str], Iterator[Row]], tuple[str, ...]], ...] = (
    (one_expert, ("bfloat16", "float32")),
    (mixture_against_one, ("bfloat16", "float32")),
    (mixture_against_models, ("bfloat16", "float32")),
    (mixture_against_peft, ("float32", "bfloat16")),
    (many_profiles, ("bfloat16", "float32")),
    (against_llama_server, ("float32", "bfloat16")),
    (resident, ("bfloat16",)),
    (switching, ("float32",)),
    (mope_step, ("bfloat16", "float32")),
    (mope_of_eight, ("bfloat16", "float32")),
    (mope_parts, ("bfloat16", "float32")),
    (rebel_world, ("float32",)),
    (rebel_large, ("float32",)),
    (pmol_decode, ("float32", "bfloat16")),
    (pmol_decode_of_eight, ("float32",)),
    (pmol_prefill, ("float32",)),
    (pmol_x_lora, ("float32",)),
    (pmol_train, ("float32",)),
    (pmol_memory, ("float32",)),
    (merge.merge, ("float32", "bfloat16")),
    (merge.merge_adapters, ("float32",)),
    (adapter_merges, ("float32",)),
)


def main(
    out: Annotated[Path, typer.Option(help="Where the rows go, as JSON.")] = Path("bench.json"),
    folder: Annotated[Path, typer.Option(help="Where the random models are kept.")] = Path(".bench"),
    only: Annotated[str, typer.Option(help="Only the parts whose names hold this.")] = "",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 uses every core.")] = 0,
) -> None:
    """Measure, print and write."""
    torch.set_num_threads(threads or os.cpu_count() or 1)
    console, units = Console(), has_bf16_units()
    start = time.time()
    with console.status("writing random models"):
        prepare(folder)
    rows: list[Row] = []
    for part, dtypes in PARTS:
        for dtype in dtypes:
            if only in f"{part.__name__} {dtype}":
                with console.status(f"{part.__name__}, {dtype}"):
                    rows += part(folder, dtype)
    if not rows:
        raise typer.BadParameter(f"no part is called {only!r}; there are: {', '.join(p.__name__ for p, _ in PARTS)}")
    show(console, rows, time.time() - start)
    write_json(out, [row.as_json(units) for row in rows])


def show(console: Console, rows: Sequence[Row], took: float) -> None:
    """Print rows, and on what machine they were measured."""
    units = has_bf16_units()
    table = Table("measured: against", "ours", "theirs", "unit", "ratio", "goal", "met", box=None)
    for row in rows:
        data = row.as_json(units)
        met = {True: "yes", False: "NO", None: "-"}[data["met"]]
        table.add_row(row.name, *(_short(data[key]) for key in ("ours", "theirs", "unit", "ratio", "goal")), met)
    console.print(f"{hardware()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {took:.0f} s")
    console.print(table)
    if not units:
        console.print("This CPU has no bf16 units: goals in bfloat16 are not judged.")


def has_bf16_units() -> bool:
    path = Path("/proc/cpuinfo")
    return path.exists() and any(word in path.read_text() for word in ("avx512_bf16", "amx_bf16", " bf16"))


def hardware() -> str:
    path = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if "model name" in line]
        if path.exists()
        else []
    )
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return "-" if value is None else str(value)


if __name__ == "__main__":
    typer.run(main)
