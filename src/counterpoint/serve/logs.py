"""What an operator reads: a line per request, as JSON or, on a terminal, for people.

Nothing of what people wrote, were told or are called is on it, unless the operator asks for it.
"""

import logging
import sys
import traceback
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from counterpoint.serve.seen import Seen


def make_log(level: str = "info", to: TextIO | None = None) -> FilteringBoundLogger:
    """A log of its own, which leaves the process's logging alone."""
    to = to or sys.stderr
    log: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(to),
        processors=[structlog.processors.add_log_level, *_stamped(), _event_first, _renderer(to)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    return log


def silence() -> FilteringBoundLogger:
    """A log that says nothing."""
    log: FilteringBoundLogger = structlog.wrap_logger(
        structlog.ReturnLogger(), processors=[], wrapper_class=structlog.make_filtering_bound_logger("critical")
    )
    return log


def take_over(level: str = "warning", words: bool = False, to: TextIO | None = None) -> None:
    """Let what libraries and the server's other parts log appear in the same form; for a process's own command.

    Of errors their trail, and with `words` what they say.
    """
    to = to or sys.stderr
    errors = structlog.processors.format_exc_info if words else _without_words
    shared: list[Processor] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, *_stamped()]
    drop = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler = logging.StreamHandler(to)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[drop, _event_first, errors, _renderer(to)],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)


def _stamped() -> list[Processor]:
    return [structlog.processors.TimeStamper(fmt="iso", utc=True)]


def _event_first(_: Any, __: str, line: EventDict) -> EventDict:
    return {name: line[name] for name in ("timestamp", "level", "event")} | dict(line)


def _without_words(_: Any, __: str, line: EventDict) -> EventDict:
    kind_error_place = line.pop("exc_info", None)
    return {**line, "trail": trail(kind_error_place[1])} if kind_error_place else line


def _renderer(to: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer() if to.isatty() else structlog.processors.JSONRenderer(ensure_ascii=False)


def line_of(seen: Seen, seconds: float) -> dict[str, Any]:
    """What the line of a request says; what it does not have is left out."""
    line = {
        "id": seen.id,
        "verb": seen.verb,
        "path": seen.route,
        "status": seen.status,
        "seconds": round(seconds, 4),
        "key": seen.key and seen.key.id,
        "method": seen.method,
        "prompt_tokens": seen.prompt_tokens,
        "tokens": seen.tokens,
        "first_token_s": seen.first_token and round(seen.first_token, 4),
        "refused": seen.refused,
        "gone": seen.gone,
        "fault": seen.fault and str(seen.fault),
    }
    return {name: value for name, value in line.items() if value not in (None, False) or name == "status"}


def trail(error: BaseException) -> list[str]:
    """The places that an error came through and its kinds, from cause to effect, without its words.

    Messages of errors may hold what a person wrote or is called, as those of databases do.
    """
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return [*(trail(before) if before else []), *places, type(error).__qualname__]
