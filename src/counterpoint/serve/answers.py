"""The last answers that were given, so that a person can say which was the better; in memory alone, never on disk."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from counterpoint.serve.errors import Refused
from counterpoint.types import Prompt

MOST = 10_000
MOST_CHARACTERS = 1 << 25
"""Of prompts and answers together: about 100 MB at the worst."""


@dataclass(frozen=True)
class Answer:
    """What was said to whom, and the coefficients that were in force, by dimension.

    `user` is the person to whom a pair was shown: nobody else can choose from it.
    """

    owner: str
    prompt: Prompt
    text: str
    weights: Mapping[str, float]
    user: str | None = None

    @property
    def size(self) -> int:
        prompt = [self.prompt] if isinstance(self.prompt, str) else [message.content for message in self.prompt]
        return len(self.text) + sum(map(len, prompt))


class Answers:
    """Answers by id, the oldest of which are forgotten first."""

    def __init__(self, most: int = MOST, characters: int = MOST_CHARACTERS) -> None:
        self._most = most
        self._characters = characters
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self._size = 0

    def keep(self, name: str, answer: Answer) -> None:
        self._kept[name] = answer
        self._size += answer.size
        while len(self._kept) > self._most or self._size > self._characters:
            _, oldest = self._kept.popitem(last=False)
            self._size -= oldest.size

    def find(self, owner: str, name: str) -> Answer:
        """An answer. Raises `Refused` with 404, the same for one that is forgotten and another owner's."""
        found = self._kept.get(name)
        if found is None or found.owner != owner:
            raise forgotten(name)
        return found


def forgotten(name: str) -> Refused:
    """What is said of an answer that is not there, or not for whoever asks."""
    return Refused(
        f"there is no answer {name!r} (any more); give the texts instead, as messages, chosen_text and rejected_text",
        404, "answer_not_found",
    )  # fmt: skip


def answer_id(call: str, index: int) -> str:
    """What feedback calls one answer of a call: the call's id, and for those after the first `#` and the index."""
    return f"{call}#{index}" if index else call
