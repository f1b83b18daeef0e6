"""What a reading says of each file: what it was taken for, and what became of its rows and columns."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from counterpoint.data.layouts import Layout
from counterpoint.data.tables import Table


@dataclass
class FileReport:
    """Counts of one file, filled while it is read.

    `rows` could be used and `dropped` could not; `layouts` counts the former by how their columns were understood;
    `comparisons` and `undecided` (a tie, or nothing said) are per dimension; `transcripts` are rows whose text became
    messages. Of scored responses, `prompts` counts the prompts and `alone` those with one response: no pair.
    """

    name: str
    format: str
    rows: int = 0
    dropped: int = 0
    layouts: Counter[str] = field(default_factory=Counter)
    unused: set[str] = field(default_factory=set)
    comparisons: Counter[str] = field(default_factory=Counter)
    undecided: Counter[str] = field(default_factory=Counter)
    transcripts: int = 0
    prompts: int = 0
    alone: int = 0

    @classmethod
    def of(cls, table: Table) -> "FileReport":
        return cls(table.name, table.format)

    def count(self, layout: Layout, unused: Iterable[str] = (), transcript: bool = False) -> None:
        """Count a row that could be used; `unused` are keys of its messages."""
        self.rows += 1
        self.layouts[str(layout)] += 1
        self.unused.update(layout.unused, unused)
        self.transcripts += transcript


def unused_columns(files: Iterable[FileReport]) -> tuple[str, ...]:
    """The columns that were not used in any of the files, by name."""
    return tuple(sorted(set().union(*(file.unused for file in files))))
