"""PHATGOOSE: vectors learned one expert at a time, from that expert's own data."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from counterpoint.artifacts import read_json
from counterpoint.compose.weighers.gate import GateExpert, hash_adapter, open_gate
from counterpoint.data.examples import example
from counterpoint.models.adapter import LoraFactors, read_adapter
from counterpoint.models.bank import LoraBank
from counterpoint.models.bank_layers import Seen
from counterpoint.models.gates import GATE
from counterpoint.models.load import load_model
from counterpoint.testing import pico_adapter, pico_tokenizer
from counterpoint.train.phatgoose import PhatgooseConfig, train_phatgoose
from counterpoint.train.sft import SftConfig, train_sft
from counterpoint.types import Comparison, CounterpointError

DOMAINS = {"sea": "the ship and the wave", "city": "a tall house is busy"}
COMPARISONS = [
    Comparison(f"say {i}", " ".join(text.split()[: 2 + i % 4]), "no", name)
    for name, text in DOMAINS.items()
    for i in range(8)
]
Given = tuple[GateExpert, LoraFactors]


@pytest.fixture(scope="session")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An adapter for each domain that has learned it, and one of random factors."""
    folder, tokenizer = tmp_path_factory.mktemp("domains"), pico_tokenizer()
    for name in DOMAINS:
        own = [example(c.prompt, c.chosen, tokenizer) for c in COMPARISONS if c.dimension == name]
        train_sft(SftConfig(str(base), steps=20, batch=8, learning_rate=1e-2, lora_rank=2), own, folder / name)
    pico_adapter(folder / "other", base, seed=3, rank=2)
    return {name: folder / name for name in (*DOMAINS, "other")}


def given(adapters: dict[str, Path], names: Sequence[str] = tuple(DOMAINS), dimension: str = "") -> list[Given]:
    return [
        (GateExpert(name=n, dimension=dimension or n, hash=hash_adapter(adapters[n])), read_adapter(adapters[n]))
        for n in names
    ]


def config(base: Path, **options: object) -> PhatgooseConfig:
    return replace(PhatgooseConfig(str(base), steps=3, batch=4, learning_rate=1e-2), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def both(base: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gate over the experts of both domains."""
    out = tmp_path_factory.mktemp("gates") / "both"
    return train_phatgoose(config(base), COMPARISONS, out, given(adapters)).folder


def rows(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "gate.safetensors")


@torch.no_grad()
def logits(base: Path, adapter: LoraFactors, strength: float) -> list[Tensor]:
    """Of the responses of one domain, each alone: what the base with a part of an expert makes of them."""
    bank = LoraBank(load_model(str(base)))
    bank.add("own", adapter)
    said = []
    with bank.gated(bank.gate([{"own": strength}])):
        for c in COMPARISONS[:8]:
            e = example(c.prompt, c.chosen, pico_tokenizer())
            ids = torch.tensor([[*e.prompt_ids, *e.response_ids]])
            logp_TV = bank.model(ids).logits[0].double().log_softmax(-1)
            said.append(logp_TV[:-1].gather(1, ids[0, 1:, None])[len(e.prompt_ids) - 1 :])
    return said


def test_untrained_every_share_is_half(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    """v = 0 and sigmoid(0) = 1/2: the first loss is that of the expert at half its strength, over response tokens."""
    result = train_phatgoose(config(base, steps=1, batch=8), COMPARISONS, tmp_path / "g", given(adapters, ["sea"]))
    expected = -torch.cat(logits(base, read_adapter(adapters["sea"]), 0.5)).mean().item()
    whole = -torch.cat(logits(base, read_adapter(adapters["sea"]), 1.0)).mean().item()
    assert result.losses[0] == pytest.approx(expected, abs=1e-4)
    assert abs(whole - expected) > 0.01


def test_it_learns_for_which_tokens_each_expert_is(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    """The loss falls, and tokens of a domain go to its own expert more than those of the other do."""
    trained = train_phatgoose(config(base, steps=20, batch=8), COMPARISONS, tmp_path / "g", given(adapters))
    for first in (0, 20):
        assert sum(trained.losses[first + 15 : first + 20]) < sum(trained.losses[first : first + 5]) - 0.1
    share_DK = torch.tensor([own_share(base, adapters, trained.folder, name) for name in DOMAINS])
    torch.testing.assert_close(share_DK.sum(-1), torch.ones(2))
    assert share_DK[0, 0] > share_DK[1, 0] + 0.02
    assert share_DK[1, 1] > share_DK[0, 1] + 0.02


@torch.no_grad()
def own_share(base: Path, adapters: dict[str, Path], folder: Path, domain: str) -> list[float]:
    """The mean share of each expert over tokens, layers and responses of a domain that were not learned from."""
    bank = LoraBank(load_model(str(base)))
    for name in DOMAINS:
        bank.add(name, read_adapter(adapters[name]))
    bank.add_router("phatgoose", open_gate(folder, adapters).router)
    unseen = example("say more", " ".join(reversed(DOMAINS[domain].split())), pico_tokenizer())
    with bank.gated(bank.gate([{GATE + "phatgoose": 1.0}])):
        seen: list[Seen] = []
        bank.context.seen = seen
        bank.model(torch.tensor([[*unseen.prompt_ids, *unseen.response_ids]]))
        bank.context.seen = None
    share_TJK = torch.cat([one.share_BTJK[0, len(unseen.prompt_ids) :] for one in seen], dim=1)
    return share_TJK.mean((0, 1)).tolist()


def test_only_the_vectors_are_written_and_the_experts_stay_the_bands(adapters: dict[str, Path], both: Path) -> None:
    assert sorted(p.name for p in both.iterdir()) == [
        "gate.json",
        "gate.safetensors",
        "manifest.json",
        "routing.json",
        "training.json",
    ]
    assert [p.name for p in both.parent.iterdir()] == ["both"]
    opened = open_gate(both, adapters)
    assert opened.experts == {}
    assert (opened.router.experts, opened.gate.top_k, opened.router.rule.normed) == (("sea", "city"), 2, True)


def test_an_expert_that_joins_leaves_the_others_as_they_were(
    base: Path, adapters: dict[str, Path], both: Path, tmp_path: Path
) -> None:
    """Rows to the bit, so that what a token scores with them is; and each is learned as if it were alone."""
    one = train_phatgoose(config(base), COMPARISONS, tmp_path / "one", given(adapters, ["sea"])).folder
    told: list[tuple[int, int]] = []
    joined = train_phatgoose(
        config(base, learning_rate=3e-2), COMPARISONS, tmp_path / "two", given(adapters, ["city", "sea"]),
        before=one, progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert len(joined.losses) == 3
    for module, of_one in rows(one).items():
        assert torch.equal(rows(joined.folder)[module][1], of_one[0])
        assert torch.equal(rows(both)[module][0], of_one[0])
        assert not torch.equal(rows(both)[module][1], rows(joined.folder)[module][0])


def test_an_expert_that_was_replaced_is_learned_anew(
    base: Path, adapters: dict[str, Path], both: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapters["other"], tmp_path / "new" / "sea")
    swapped = {**adapters, "sea": tmp_path / "new" / "sea"}
    again = train_phatgoose(config(base), COMPARISONS, tmp_path / "two", given(swapped), before=both)
    assert len(again.losses) == 3
    for module, before in rows(both).items():
        assert torch.equal(rows(again.folder)[module][1], before[1])
        assert not torch.equal(rows(again.folder)[module][0], before[0])


def test_what_the_gate_makes_of_the_data_lies_beside_it(both: Path) -> None:
    """By layer, the dimension of the data and the group of experts; there is no empty expert."""
    routing = read_json(both / "routing.json")
    assert sorted(routing["layers"]) == sorted(rows(both))
    assert (routing["dimensions"], routing["groups"]) == (["sea", "city"], ["sea", "city"])
    mass_JDG = torch.tensor(routing["mass"])
    torch.testing.assert_close(mass_JDG.sum(-1), torch.ones(len(routing["layers"]), 2), atol=1e-5, rtol=0)
    assert torch.tensor(routing["empty"]).abs().max() < 1e-5


class Interruption(Exception):
    pass


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_bits(
    base: Path, adapters: dict[str, Path], both: Path, tmp_path: Path
) -> None:
    """Stopped in step 5, the second of the second expert: that is done again, and nothing before it."""
    seen: list[int] = []

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise Interruption

    own = config(base, checkpoint_every=1)
    with pytest.raises(Interruption):
        train_phatgoose(own, COMPARISONS, tmp_path / "g", given(adapters), progress=interrupt)
    resumed = train_phatgoose(
        own, COMPARISONS, tmp_path / "g", given(adapters), progress=lambda done, _: seen.append(done)
    )
    assert seen == [5, 6]
    assert all(torch.equal(rows(resumed.folder)[module], part) for module, part in rows(both).items())
    unbroken = read_json(both / "training.json")["losses"]
    assert list(resumed.losses) == unbroken


def test_a_finished_gate_is_not_made_again(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    own, sea = config(base, steps=1), given(adapters, ["sea"])
    first = train_phatgoose(own, COMPARISONS, tmp_path / "g", sea)
    again = train_phatgoose(own, COMPARISONS, tmp_path / "g", sea)
    assert (first.fresh, again.fresh) == (True, False)
    assert again == replace(first, fresh=False)
    assert train_phatgoose(own, COMPARISONS[1:], tmp_path / "g", sea).fresh
    other = given(adapters, ["other"], dimension="sea")
    assert train_phatgoose(own, COMPARISONS[1:], tmp_path / "g", other).fresh


def test_bad_input_is_named(base: Path, adapters: dict[str, Path], band_folder: Path, tmp_path: Path) -> None:
    entry, factors = given(adapters)[0]
    cases: list[tuple[list[Given], PhatgooseConfig, str]] = [
        ([], config(base), "phatgoose needs experts that are adapters"),
        (
            [(entry.model_copy(update={"hash": None}), factors)],
            config(base),
            "expert 'sea' has no hash; add its adapter",
        ),
        (
            given(adapters, dimension="lake"),
            config(base),
            "no comparison is on the dimension 'lake'; dimensions found: city, sea",
        ),
        (given(adapters), config(base, steps=0), "steps is 0; it must be at least 1"),
        (given(adapters), config(base, max_length=3), "all 8 examples are longer than max_length = 3 tokens"),
    ]
    for experts, own, message in cases:
        with pytest.raises(CounterpointError, match=message):
            train_phatgoose(own, COMPARISONS, tmp_path / "g", experts)
    unlike = (GateExpert(name="exact", dimension="sea", hash="h"), read_adapter(band_folder / "experts" / "exact"))
    with pytest.raises(CounterpointError, match="must adapt the same layers, and of 'sea' and 'exact'"):
        train_phatgoose(config(base), COMPARISONS, tmp_path / "g", [*given(adapters, ["sea"]), unlike])
    assert list(tmp_path.iterdir()) == []
