"""A band with an expert behind an endpoint answers as the band that has the same expert here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.band import Band
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.models.band_file import add_expert, add_model, new_band
from counterpoint.models.load import load_model
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import CounterpointError, Expert, Profile

if TYPE_CHECKING:
    from tests.decode.test_remote import Server
else:
    from test_remote import Server

Command = Callable[..., tuple[object, str, str]]
MIXTURES = ("mixture-prob", "mixture-log")
PROMPT = "What does the owl eat?"
BOTH = Profile({"terse": 1.0, "wild": 1.0})
GREEDY = Sampling(temperature=0, max_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter and a whole model, both of them here."""
    root = tmp_path_factory.mktemp("endpoints")
    base, wild = save_pico(root / "base", seed=1), save_pico(root / "wild", seed=2)
    new_band(root / "here", str(base), [])
    add_expert(root / "here", pico_adapter(root / "terse", base, seed=3), Expert("terse", "terse"))
    add_model(root / "here", str(wild), Expert("wild", "wild"))
    return root


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """Offers the whole model."""
    wild = load_model(str(folder / "wild"), torch.float32, "cpu")

    def script(context: Sequence[int]) -> Tensor:
        with torch.no_grad():
            logits_V: Tensor = wild(torch.tensor([list(context)])).logits[0, -1]
        return torch.log_softmax(logits_V.double(), dim=-1)

    server = Server()
    server.script = script
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def here(folder: Path) -> Band:
    return Band.load(folder / "here")


@pytest.fixture
def there_folder(folder: Path, server: Server, command: Command, tmp_path: Path) -> Path:
    """The same band with the whole model behind the server, as the command line makes it."""
    band = tmp_path / "there"
    new_band(band, str(folder / "base"), [])
    add_expert(band, folder / "terse", Expert("terse", "terse"))
    add = ("add", band, server.url, "--dimension", "wild", "--remote-model", "m")
    code, _, told = command(*add, "--top", "all", "--on-failure", "drop")
    assert code == 0, told
    return band


@pytest.fixture
def there(there_folder: Path) -> Band:
    return Band.load(there_folder)


def request(band: Band, method: str) -> Request:
    return band.request(band.prompt(PROMPT), band.plan(BOTH, method), GREEDY)


@pytest.mark.parametrize("method", MIXTURES)
def test_a_whole_vocabulary_from_there_mixes_as_from_here(here: Band, there: Band, method: str) -> None:
    here_QV, there_QV = (b.engine.next_distributions([request(b, method)]) for b in (here, there))
    torch.testing.assert_close(there_QV[:, :-1], here_QV, atol=1e-5, rtol=0)
    assert there.run([request(there, method)]) == here.run([request(here, method)])
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=8, seed=5)
    profile = "terse=1, wild=0.5, strength=0.8"
    assert there.chat(PROMPT, profile, method, sampling) == here.chat(PROMPT, profile, method, sampling)


def after(band: Band, gate: dict[str, float], said: Sequence[int]) -> tuple[int, ...]:
    """How an expert alone goes on with what has been said."""
    context = (*request(band, "mixture-prob").contexts[0], *said)
    sampling = replace(GREEDY, max_tokens=GREEDY.max_tokens - len(said))
    return band.run([Request(Plan((Row(gate),)), (context,), sampling)])[0].tokens


@pytest.mark.parametrize("method", MIXTURES)
def test_what_is_lost_midway_leaves_the_others_to_go_on(server: Server, here: Band, there: Band, method: str) -> None:
    whole = server.script
    answered: list[Sequence[int]] = []

    def mortal(context: Sequence[int]) -> Tensor:
        answered.append(context)
        if len(answered) == 3:
            server.die()
        return whole(context)

    server.script = mortal
    with pytest.warns(UserWarning, match="answers go on without it: expert 'wild' at"):
        said = there.run([request(there, method)])[0].tokens
    together = here.run([request(here, method)])[0].tokens
    assert len(said) == GREEDY.max_tokens
    assert said[:3] == together[:3]
    assert said[3:] == after(here, {"terse": 1.0}, said[:3])
    assert said[3:] != together[3:]


def test_a_band_whose_server_is_down_answers_without_it(server: Server, here: Band, there_folder: Path) -> None:
    server.die()
    with pytest.warns(UserWarning, match="'wild' at .*; it is asked again when it is first needed"):
        there = Band.load(there_folder)
    assert there.chat(PROMPT, "terse=1", "mixture-prob", GREEDY) == here.chat(PROMPT, "terse=1", "soup", GREEDY)
    with pytest.warns(UserWarning, match="answers go on without it: expert 'wild' at"):
        said = there.run([request(there, "mixture-log")])[0].tokens
    assert said == after(here, {"terse": 1.0}, ())
    server.always = ""
    assert there.run([request(there, "mixture-log")]) == here.run([request(here, "mixture-log")])


def test_what_acts_on_an_expert_before_it_is_mixed_is_refused(there: Band) -> None:
    with pytest.raises(CounterpointError, match="'wild' is behind an endpoint, which takes no repetition_penalty"):
        there.chat(PROMPT, BOTH, "mixture-prob", Sampling(repetition_penalty=1.2))
    own = replace(there.plan(BOTH, "mixture-prob"), temper="experts")
    with pytest.raises(CounterpointError, match="'wild' is behind an endpoint, whose distribution takes no temper"):
        there.request(there.prompt(PROMPT), own, Sampling(temperature=0.7))
    there.request(there.prompt(PROMPT), own, Sampling(temperature=1.0))
