"""The training of gates as a whole: what it writes, what it refuses, and what a killed run leaves."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from counterpoint.compose.weighers.gate import GateExpert, Opened, hash_adapter, open_gate
from counterpoint.data.examples import pairs
from counterpoint.models.adapter import read_adapter
from counterpoint.models.bank import LoraBank
from counterpoint.models.gates import GATE
from counterpoint.models.load import load_model
from counterpoint.testing import pico_adapter, pico_tokenizer, save_pico
from counterpoint.train.gate import PAIR_LOSSES, GateConfig, Given, gate_trainer, keep_gate, new_learner, train_gate
from counterpoint.train.routing import all_shares, listening
from counterpoint.train.run import Progress, TrainResult, seeded
from counterpoint.types import Comparison, CounterpointError

DIMENSIONS = ("short", "warm")
COMPARISONS = [
    Comparison(f"say {i} ", "the " * (1 + i % 4) + "end", "no" * (i % 3), DIMENSIONS[i % 2]) for i in range(8)
]
ROWS = pairs(COMPARISONS, pico_tokenizer())
GROUP = [DIMENSIONS.index(c.dimension) for c in COMPARISONS]


def config_for(base: Path, **options: Any) -> GateConfig:
    plain = GateConfig(str(base), DIMENSIONS, steps=2, batch=4, per_group=1, lora_rank=2, lora_alpha=5)
    return replace(plain, **options)


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters that do something, as a band has them."""
    folder = tmp_path_factory.mktemp("experts")
    return {name: pico_adapter(folder / name, base, seed=i, rank=3) for i, name in enumerate(("w", "s"))}


@pytest.fixture(scope="module")
def trained(folders: dict[str, Path]) -> list[Given]:
    dimension = {"w": "warm", "s": "short"}
    return [
        (GateExpert(name=name, dimension=dimension[name], hash=hash_adapter(folder)), read_adapter(folder))
        for name, folder in folders.items()
    ]


def bank_of(base: Path, opened: Opened, others: Mapping[str, Path] | None = None) -> LoraBank:
    bank = LoraBank(load_model(str(base)))
    for name, factors in (*opened.experts.items(), *((n, read_adapter(f)) for n, f in (others or {}).items())):
        bank.add(name, factors)
    bank.add_router(opened.gate.kind, opened.router)
    return bank


def logits_and_shares(bank: LoraBank, gate: Any) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([[*ROWS[3].prompt_ids, *ROWS[3].chosen_ids]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model: Any = bank.model
    with torch.no_grad(), listening(bank, gate, inputs) as seen:
        return model(**inputs).logits, all_shares(seen)


# What is written


@pytest.mark.parametrize(
    ("kind", "experts"),
    [("pmol", "new"), ("pmol", "given"), ("pmol", "router"), ("loramoe", "new"), ("x-lora", "router")],
)
def test_what_was_trained_is_what_decodes(
    base: Path, folders: dict[str, Path], trained: list[Given], tmp_path: Path, kind: Any, experts: str
) -> None:
    learn: Any = "router" if experts == "router" else "all"
    config = config_for(base, kind=kind, learn=learn, learning_rate=0.05, depth=2, width=8, layerwise=True)
    own = [] if experts == "new" else trained
    with seeded(0):
        learner = new_learner(config, load_model(str(base)), own)
        gate_trainer(config, ROWS, GROUP, learner, pico_tokenizer(), tmp_path / "work").train()
    keep_gate(config, learner, own, tmp_path)
    opened = open_gate(tmp_path, folders)
    assert len(opened.experts) == (0 if experts == "router" else 2)
    bank = bank_of(base, opened, {} if opened.experts else folders)
    trained_logits, trained_shares = logits_and_shares(learner.bank, learner.gate)
    logits, shares = logits_and_shares(bank, bank.gate([{GATE + kind: 1.0}]))
    torch.testing.assert_close(shares, trained_shares, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, trained_logits, atol=1e-4, rtol=0)
    with torch.no_grad():
        moved = logits - load_model(str(base))(torch.tensor([[*ROWS[3].prompt_ids, *ROWS[3].chosen_ids]])).logits
    assert moved.abs().max() > 0.1


def test_an_expert_that_is_written_is_an_adapter_of_peft(base: Path, tmp_path: Path) -> None:
    """With alpha/r inside, at the whole weight: PEFT's logits are those of the bank where it alone has a share."""
    from peft import PeftModel

    folder = train_gate(config_for(base, learning_rate=0.05), COMPARISONS, tmp_path / "gate").folder
    opened = open_gate(folder, {})
    bank = bank_of(base, opened)
    ids = torch.tensor([[*ROWS[3].prompt_ids, *ROWS[3].chosen_ids]])
    for name in ("short-0", "warm-0"):
        in_peft = PeftModel.from_pretrained(load_model(str(base)), folder / "experts" / name)
        with torch.no_grad(), bank.gated(bank.gate([{f"pmol:{name}": 1.0}])):
            torch.testing.assert_close(bank.model(ids).logits, in_peft(ids).logits, atol=1e-4, rtol=0)


def test_experts_of_transposed_layers_load_in_peft_without_a_warning(tmp_path: Path) -> None:
    from peft import PeftModel

    base = save_pico(tmp_path / "base", family="gpt2")
    folder = train_gate(config_for(base, learning_rate=0.05), COMPARISONS, tmp_path / "gate").folder
    in_peft = PeftModel.from_pretrained(load_model(str(base)), folder / "experts" / "warm-0")
    bank, ids = bank_of(base, open_gate(folder, {})), torch.tensor([list(ROWS[3].prompt_ids)])
    with torch.no_grad(), bank.gated(bank.gate([{"pmol:warm-0": 1.0}])):
        torch.testing.assert_close(bank.model(ids).logits, in_peft(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kind", "loss"), [*(("pmol", loss) for loss in (*PAIR_LOSSES, "sft")), ("loramoe", "dpo"), ("x-lora", "ipo")]
)
def test_every_loss_lowers_itself(base: Path, tmp_path: Path, loss: str, kind: Any) -> None:
    config = config_for(base, kind=kind, loss=loss, steps=5, batch=8, learning_rate=0.03)
    result = train_gate(config, COMPARISONS, tmp_path / "gate", model=load_model(str(base)))
    assert result.fresh
    assert result.losses[-1] < result.losses[0] - 0.02
    assert open_gate(result.folder, {}).gate.kind == kind


def test_the_group_loss_ties_groups_to_the_data(base: Path, tmp_path: Path) -> None:
    """Where prompts tell the dimension, its data go to its experts; what the run says of it is what its end says."""
    told = [replace(c, prompt=("mind " if c.dimension == "warm" else "rush ") * 4) for c in COMPARISONS]
    config = config_for(base, balance=3.0, soft=0.05, steps=20, batch=8, learning_rate=0.05)
    result = train_gate(config, told, tmp_path / "gate")
    routing = json.loads((result.folder / "routing.json").read_text())
    assert (routing["dimensions"], routing["groups"]) == ([*DIMENSIONS], [*DIMENSIONS])
    assert len(routing["layers"]) == len(routing["mass"]) == 14
    mass_DG = torch.tensor(routing["mass"]).mean(0)
    assert mass_DG.diagonal().min() > 0.6 > 0.4 > mass_DG.flip(0).diagonal().max()
    assert torch.tensor(routing["empty"]).max() < 0.2, "the literal loss drives the empty expert out"
    log = json.loads((result.folder / "training.json").read_text())["routing"]
    assert [entry["step"] for entry in log] == list(range(1, 21))
    for number in (0, 1):
        first, *_, last = [entry["mass"][number] for entry in log if entry["mass"][number] != [None, None]]
        assert first[number] < 0.5
        assert last == pytest.approx(mass_DG[number].tolist(), abs=0.1)


def test_a_table_is_of_what_was_written(base: Path, tmp_path: Path) -> None:
    """`routing.json`, against each chosen response read alone by the gate that was written."""
    folder = train_gate(config_for(base), COMPARISONS, tmp_path / "gate").folder
    routing, bank = json.loads((folder / "routing.json").read_text()), bank_of(base, open_gate(folder, {}))
    gate = bank.gate([{GATE + "pmol": 1.0}])
    found: dict[int, list[Tensor]] = {0: [], 1: []}
    for row, number in zip(ROWS, GROUP, strict=True):
        ids = torch.tensor([[*row.prompt_ids, *row.chosen_ids]])
        with torch.no_grad(), listening(bank, gate, {}) as seen:
            bank.model(ids)
        found[number].append(all_shares(seen)[0, len(row.prompt_ids) :])
    for number, shares in found.items():
        share_TJK = torch.cat(shares)
        share_TJE = torch.cat([share_TJK, 1 - share_TJK.sum(-1, keepdim=True)], -1)
        entropy_TJ = -(share_TJE * share_TJE.log()).sum(-1)
        expected = {"mass": share_TJK, "empty": share_TJE[..., -1], "entropy": entropy_TJ}
        for name, value in expected.items():
            table = torch.tensor(routing[name])[:, number]
            torch.testing.assert_close(table, value.mean(0), atol=1e-4, rtol=0)


def test_given_experts_that_learn_are_the_gates_own(
    base: Path, folders: dict[str, Path], trained: list[Given], tmp_path: Path
) -> None:
    result = train_gate(config_for(base, learning_rate=0.01), COMPARISONS, tmp_path / "gate", trained)
    opened = open_gate(result.folder, {})
    assert set(opened.experts) == {"pmol:w", "pmol:s"}
    assert all(expert.hash is None for expert in opened.gate.experts)
    for entry, given in trained:
        learned = opened.experts[f"pmol:{entry.name}"]
        steps = [(learned.factors[m][0] - a).abs().max().item() for m, (a, _) in given.factors.items()]
        assert 1e-3 < min(steps) <= max(steps) < 0.021, "two steps of 0.01 from what was given"
        assert hash_adapter(folders[entry.name]) == entry.hash


def test_longer_pairs_are_left_out_with_their_dimension(base: Path, tmp_path: Path) -> None:
    longer = [Comparison("x", "a" * 99, "b", "short"), *COMPARISONS, Comparison("x", "a", "b" * 99, "warm")]
    config = config_for(base, max_length=60, steps=1)
    mixed, plain = (
        train_gate(config, data, tmp_path / name) for name, data in (("mixed", longer), ("plain", COMPARISONS))
    )
    assert (mixed.dropped, plain.dropped) == (2, 0)
    assert mixed.losses == plain.losses


# Runs


class Interruption(Exception):
    pass


def job(base: Path, out: Path, progress: Progress | None = None) -> TrainResult:
    return train_gate(config_for(base, steps=8, checkpoint_every=3), COMPARISONS, out, progress=progress)


def bits(folder: Path) -> dict[str, dict[str, list[float]]]:
    files = [folder / "gate.safetensors", *sorted(folder.glob("experts/*/*.safetensors"))]
    return {str(f.relative_to(folder)): {k: x.flatten().tolist() for k, x in load_file(f).items()} for f in files}


def test_a_killed_and_a_stopped_run_ends_with_the_bits_of_an_unbroken_one(base: Path, tmp_path: Path) -> None:
    """Killed after step 4 it goes on from its checkpoint of step 3, and stopped after step 7 from that of step 6."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    broken = tmp_path / "broken"
    seen: list[int] = []
    with subprocess.Popen([sys.executable, __file__, str(base), str(broken)], env=environment) as process:
        unbroken = job(base, tmp_path / "unbroken")
        assert process.wait(120) == -signal.SIGKILL

    def stop(step: int, total: int) -> None:
        seen.append(step)
        if step == 7:
            raise Interruption

    with pytest.raises(Interruption):
        job(base, broken, stop)
    assert seen == [4, 5, 6, 7]
    assert not broken.exists()
    resumed = job(base, broken, lambda step, total: seen.append(step))
    assert seen == [4, 5, 6, 7, 7, 8]
    assert bits(resumed.folder) == bits(unbroken.folder)
    assert resumed.losses == unbroken.losses
    for file in ("routing.json", "training.json"):
        assert (resumed.folder / file).read_bytes() == (unbroken.folder / file).read_bytes()


def kill(step: int, total: int) -> None:
    if step == 4:
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_is_there_is_not_trained_again(base: Path, trained: list[Given], tmp_path: Path) -> None:
    config, out = config_for(base, steps=1, learn="router"), tmp_path / "gate"
    first = train_gate(config, COMPARISONS, out, trained)
    again = train_gate(config, COMPARISONS, out, trained, progress=lambda *_: pytest.fail("a step was made"))
    assert (first.fresh, again.fresh) == (True, False)
    assert again.losses == first.losses
    renamed = [
        (entry.model_copy(update={"dimension": dimension}), factors)
        for (entry, factors), dimension in zip(trained, DIMENSIONS, strict=True)
    ]
    assert train_gate(config, COMPARISONS, out, renamed).fresh, "experts are for other dimensions"
    swapped = [replace(c, dimension=DIMENSIONS[1 - i]) for c, i in zip(COMPARISONS, GROUP, strict=True)]
    assert train_gate(config, swapped, out, renamed).fresh, "the data are on other dimensions"


def test_a_run_that_diverges_leaves_nothing(base: Path, tmp_path: Path) -> None:
    with pytest.raises(CounterpointError, match=r"the loss of step \d is nan; lower learning_rate or raise warmup"):
        train_gate(config_for(base, steps=4, learning_rate=1e30), COMPARISONS, tmp_path / "gate")
    assert not (tmp_path / "gate").exists()


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "arrow"}, "kind is 'arrow'; it must be one of pmol, loramoe, x-lora; arrow has nothing to train"),
        ({"kind": "phatgoose"}, "kind is 'phatgoose'; .*; train_phatgoose trains that"),
        ({"kind": "moe"}, "kind is 'moe'; it must be one of pmol, loramoe, x-lora$"),
        ({"loss": "rebel"}, "loss is 'rebel'; it must be one of dpo, ipo, hinge, sft"),
        ({"learn": "experts"}, "learn is 'experts'; it must be one of all, router"),
        ({"target": "soft"}, "target is 'soft'; it must be one of ratio, mass, loramoe"),
        ({"dimensions": ()}, r"dimensions are \(\); name one or more"),
        ({"dimensions": ("a", "a")}, r"dimensions are \('a', 'a'\); name one or more, and none twice"),
        ({"soft": 1.5}, r"soft is 1.5 for 'short'; it must lie in \[0, 1\]"),
        ({"soft": math.nan}, "soft is nan for 'short'"),
        ({"soft": {"short": 0.1}}, "soft must name each dimension once, and differs in 'warm'; they are: short, warm"),
        ({"soft": {"short": 0.1, "warm": 0.1, "x": 0.1}}, "differs in 'x'"),
        ({"per_group": 0}, "per_group is 0; it must be at least 1"),
        ({"lora_rank": 0}, "lora_rank is 0; it must be at least 1"),
        ({"depth": 0}, "depth is 0; it must be at least 1"),
        ({"balance": -0.1}, "balance is -0.1; it must be at least 0"),
        ({"sft_weight": math.inf}, "sft_weight is inf; it must be at least 0"),
        ({"beta": 0.0}, "beta is 0.0; it must be more than 0"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(base: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CounterpointError, match=f"^.*{message}"):
        config_for(base, **options)


def test_a_soft_constraint_for_each_dimension_is_taken(base: Path) -> None:
    assert config_for(base, soft={"warm": 0.3, "short": 0.1}).soft_of == {"short": 0.1, "warm": 0.3}


def test_what_cannot_be_trained_is_refused(base: Path, trained: list[Given], tmp_path: Path) -> None:
    out = tmp_path / "gate"
    with pytest.raises(CounterpointError, match="learn is 'router' and there are no experts; new ones do nothing"):
        train_gate(config_for(base, learn="router"), COMPARISONS, out)
    with pytest.raises(CounterpointError, match="no comparison is on the dimension 'kind'; dimensions found: short"):
        train_gate(config_for(base, dimensions=("short", "kind")), COMPARISONS, out)
    with pytest.raises(CounterpointError, match="data on 'warm' and no expert of it"):
        train_gate(config_for(base), COMPARISONS, out, trained[1:])
    with pytest.raises(CounterpointError, match="expert 'w' is for 'warm', of which there is no data"):
        train_gate(config_for(base, dimensions=("short",)), COMPARISONS, out, trained)
    with pytest.raises(CounterpointError, match="lora_targets: 'c_attn' is no linear layer"):
        train_gate(config_for(base, lora_targets=("c_attn",)), COMPARISONS, out)
    assert not out.exists()


if __name__ == "__main__":
    job(Path(sys.argv[1]), Path(sys.argv[2]), kill)
