"""What a long run shows while it works: a line per stage that says what it does and why, a bar, and the seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass
class Stages:
    """Runs named stages and remembers how long each took."""

    console: Console = field(default_factory=lambda: Console(stderr=True))
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, why: str) -> Iterator["Bar"]:
        """Announce a stage, give it a bar, and print what it noted when it ends."""
        self.console.print(f"[bold]{name}[/bold]  {why}", highlight=False)
        start = time.perf_counter()
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            bar = Bar(progress)
            yield bar
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        notes = "; ".join(bar.notes)
        self.console.print(f"  [green]done[/green] in {self.seconds[name]:.1f} s{': ' if notes else ''}", end="")
        self.console.print(notes, markup=False, highlight=False)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@dataclass
class Bar:
    """The progress of one stage, which may do several things in turn."""

    progress: Progress
    notes: list[str] = field(default_factory=list)

    def task(self, description: str) -> "Report":
        """A bar of its own for one of the things that the stage does."""
        return Report(self.progress, self.progress.add_task(description, total=None))

    def note(self, text: str) -> None:
        """Say something in the stage's closing line."""
        self.notes.append(text)


@dataclass(frozen=True)
class Report:
    """Called with (done, total), as everything that takes a `progress` calls it."""

    progress: Progress
    task: "int | object"

    def __call__(self, done: int, total: int) -> None:
        self.progress.update(self.task, completed=done, total=total)  # type: ignore[arg-type]
