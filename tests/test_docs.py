"""What the documentation says is true: snippets run, commands and options exist, links and names lead somewhere."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from counterpoint.cli import app
from counterpoint.data.world import DIMENSIONS
from counterpoint.models.band_file import add_expert, new_band, write_band
from counterpoint.testing import pico_adapter, save_pico
from counterpoint.types import Expert

ROOT = Path(__file__).parent.parent
PAGES = [page for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if page.exists()]
PAGES += sorted((ROOT / "docs").glob("*.md"))

NOT_RUN = re.compile(r"<!--\s*not run\b:?\s*(.*?)\s*-->")
FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,})(?P<language>\S*).*$")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|^\[[^\]]+\]:\s*(\S+)|(?:href|src|srcset)=\"([^\"\s]+)", re.MULTILINE)
TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
STAGES = "build|compose|data|decode|evaluate|models|profiles|rewards|serve|train"
SOURCE_NAME = re.compile(rf"`((?:src|recipes|{STAGES})/[\w/.]+)`")
PLACES = (ROOT, ROOT / "src" / "counterpoint")


@dataclass(frozen=True)
class Fence:
    """A fenced block: where it opens, its language, its text, and the `not run` comment before it, if any."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def split(page: Path) -> tuple[list[Fence], str]:
    """The fenced blocks of a page, and the rest of it. `ValueError` for a block that is never closed."""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    blocks: list[Fence] = []
    rest: list[str] = []
    for number, line in lines:
        opening = FENCE.match(line)
        if not opening:
            rest.append(line)
            continue
        body = []
        for _, inner in lines:
            if inner.strip() == opening["marks"]:
                break
            body.append(inner.removeprefix(opening["indent"]))
        else:
            raise ValueError(f"{page.name}:{number}: this block is never closed")
        before = next((said.strip() for said in reversed(rest) if said.strip()), "")
        marked = NOT_RUN.fullmatch(before)
        blocks.append(Fence(page, number, opening["language"], "\n".join(body) + "\n", marked[1] if marked else None))
        rest.append("[a block]")
    return blocks, "\n".join(rest)


@dataclass(frozen=True)
class Command:
    """One `counterpoint ...` of a shell block, without what it is piped from or to."""

    fence: Fence
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.fence}: {shlex.join(self.words)}"


def commands(fence: Fence) -> Iterator[Command]:
    """Lines joined at a trailing backslash, cut at pipes and the like, comments and prompts left out."""
    for line in fence.text.replace("\\\n", " ").splitlines():
        reader = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
        reader.whitespace_split = True
        words: list[str] = []
        for word in [*reader, ";"]:
            if set(word) <= set("|&;<>"):
                if words[:1] == ["counterpoint"]:
                    yield Command(fence, tuple(words[1:]))
                words = []
            else:
                words.append(word)


FENCES = [fence for page in PAGES for fence in split(page)[0]]
SNIPPETS = [fence for fence in FENCES if fence.language == "python"]
COMMANDS = [command for fence in FENCES if fence.language in ("sh", "bash") for command in commands(fence)]
LINKS = [(page, "".join(groups)) for page in PAGES for groups in LINK.findall(split(page)[1])]
INSIDE = [(page, target) for page, target in LINKS if not re.match(r"[a-z]+:", target)]


def test_something_is_collected() -> None:
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert names >= {"README.md", "CONTRIBUTING.md", "docs/METHODS.md", "docs/SYSTEMS.md", "docs/LOG.md"}
    assert len(SNIPPETS) >= 4
    assert COMMANDS
    assert INSIDE


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pico band at demo/band: the embedded world's dimensions, an expert of each, measured scores."""
    folder = tmp_path_factory.mktemp("docs")
    band = folder / "demo" / "band"
    base = save_pico(band / "base", seed=1)
    new_band(band, str(base), DIMENSIONS)
    for seed, dimension in enumerate(DIMENSIONS):
        adapter = pico_adapter(folder / "made" / dimension.name, base, seed=seed)
        file = add_expert(band, adapter, Expert(dimension.name, dimension.name, "nothing: it is random"))
    for entry in file.experts:
        entry.scores = {dimension.name: float(dimension.name == entry.name) for dimension in DIMENSIONS}
    write_band(band, file)
    return folder


@pytest.mark.parametrize("snippet", SNIPPETS, ids=str)
def test_a_snippet_runs(snippet: Fence, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if snippet.not_run is not None:
        assert snippet.not_run, f"{snippet}: a snippet that is not run needs a reason, as in <!-- not run: reason -->"
        ast.parse(snippet.text)
        pytest.skip(snippet.not_run)
    monkeypatch.chdir(demo)
    exec(compile(snippet.text, str(snippet), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_exists_with_its_options(command: Command) -> None:
    """Parsed as the command line would parse it, values and all, and not run."""
    group = typer.main.get_command(app)
    name, *rest = command.words or ("",)
    if name == "--help":
        return
    assert name in group.commands, f"no command {name!r}; there are: {', '.join(group.commands)}"  # type: ignore[attr-defined]
    found = group.commands[name]  # type: ignore[attr-defined]
    if hasattr(found, "commands") and rest and rest[0] != "--help":
        assert rest[0] in found.commands, f"no command {name} {rest[0]!r}"
        found, rest = found.commands[rest[0]], rest[1:]
    parsed = [word for word in rest if word != "--help"]
    if parsed or rest == parsed:
        found.make_context(name, parsed)


@pytest.mark.parametrize(("page", "target"), INSIDE, ids=lambda part: getattr(part, "name", part))
def test_a_link_resolves(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    linked = (page.parent / path).resolve() if path else page
    assert linked.exists(), f"{page.name}: there is no {target}"
    assert linked.is_relative_to(ROOT), f"{page.name}: {target} leads out of the project"
    if anchor and linked.suffix == ".md":
        assert anchor in anchors(linked), f"{page.name}: {linked.name} has no heading for #{anchor}"


def anchors(page: Path) -> set[str]:
    """Headings as web pages name them: lower case, spaces to hyphens, no other punctuation."""
    headings = re.findall(r"^#+ +(.*)$", split(page)[1], flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_tests_and_files_exist(page: Path) -> None:
    text = split(page)[1]
    for path, name in TEST_NAME.findall(text):
        file = ROOT / path
        assert file.exists(), f"{page.name}: there is no {path}"
        assert not name or f"def {name}(" in file.read_text(encoding="utf-8"), f"{page.name}: no {path}::{name}"
    for path in SOURCE_NAME.findall(text):
        assert any((place / path).exists() for place in PLACES), f"{page.name}: there is no {path}"


def test_fences_and_commands_by_hand(tmp_path: Path) -> None:
    page = tmp_path / "by_hand.md"
    text = (
        "<!-- not run: it needs a network -->\n\n```python\nx = 1\n```\n\nText [a](b.md) ![c](<d.png>).\n\n"
        "  ```sh\n  # a comment\n  $ echo hi | counterpoint chat B \\\n    --profile 'a=1, b=2' > out; ls\n  ```\n"
    )
    page.write_text(text)
    (one, other), rest = split(page)
    assert (one.language, one.line, one.text, one.not_run) == ("python", 3, "x = 1\n", "it needs a network")
    assert other.not_run is None
    assert [command.words for command in commands(other)] == [("chat", "B", "--profile", "a=1, b=2")]
    assert ["".join(groups) for groups in LINK.findall(rest)] == ["b.md", "d.png"]


def test_an_unknown_option_is_found() -> None:
    fence = Fence(ROOT / "README.md", 1, "sh", "counterpoint chat demo/band --temprature 1\n", None)
    with pytest.raises(Exception, match="No such option"):
        test_a_command_exists_with_its_options(next(commands(fence)))
