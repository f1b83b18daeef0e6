"""What Prometheus reads: counts by method and status, times of tokens, and how full the engine is at this moment.

No label holds anything that a client made up: a name of a user, a prompt or an unknown model would make a series each,
and tell it to whoever may read the figures.
"""

from collections.abc import Iterable, Iterator
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from counterpoint.serve.drain import Drain
from counterpoint.serve.seen import Seen
from counterpoint.serve.worker import Worker

NAME = "counterpoint"
FIRST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BETWEEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
WHOLE_S = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self, worker: Worker, drain: Drain) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(Now(worker, drain))
        count = partial(Counter, registry=self.registry, namespace=NAME)
        spread = partial(Histogram, registry=self.registry, namespace=NAME)
        self._requests = count("requests", "Requests that have ended.", ["path", "method", "status"])
        self._refused = count("refused", "Requests that got an error, by its code.", ["reason"])
        self._gone = count("gone", "Clients that left before their answer ended.")
        self._database = count("database_errors", "Requests that failed because the database was away.")
        self._first = spread("first_token_seconds", "From a request to its first token.", buckets=FIRST_S)
        self._between = spread("between_tokens_seconds", "Between tokens of an answer.", buckets=BETWEEN_S)
        self._whole = spread("request_seconds", "From a request to its answer's end.", ["path"], buckets=WHOLE_S)

    def note(self, seen: Seen, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(seen.route, seen.method or "", str(seen.status)).inc()
        self._whole.labels(seen.route).observe(seconds)
        self._gone.inc(seen.gone)
        if seen.refused:
            self._refused.labels(seen.refused).inc()
            self._database.inc(seen.refused == "database_away")
        if seen.first_token is not None:
            self._first.observe(seen.first_token)
        for gap in seen.gaps:
            self._between.observe(gap)

    def text(self) -> bytes:
        """The figures in Prometheus' text format."""
        return generate_latest(self.registry)


class Now(Collector):
    """What others count for themselves, read when it is asked for."""

    def __init__(self, worker: Worker, drain: Drain) -> None:
        self._worker = worker
        self._drain = drain

    def collect(self) -> Iterable[Metric]:
        yield from gauges(self._worker, self._drain)
        yield from totals(self._worker)


def gauges(worker: Worker, drain: Drain) -> Iterator[GaugeMetricFamily]:
    engine = worker.band.engine
    for name, meaning, value in (
        ("alive", "Whether the engine's thread runs.", float(worker.alive)),
        ("under_way", "Requests that were let in and have not been answered to their end.", drain.under_way),
        ("waiting", "Requests that wait for room.", worker.waiting),
        ("rows", "Rows under way; a mixture of K experts takes K.", worker.live_rows),
        ("rows_limit", "Most rows of one forward.", worker.rows_limit),
        ("cells", "Positions of rows, powers of two of both, that are promised to requests.", engine.promised),
        ("cells_limit", "Positions of rows for which there is memory.", engine.max_cells or 0),
    ):
        yield GaugeMetricFamily(f"{NAME}_{name}", meaning, value)


def totals(worker: Worker) -> Iterator[CounterMetricFamily]:
    for name, meaning, value in (
        ("tokens", "Tokens said.", worker.tokens_said),
        ("prompt_tokens", "Tokens of prompts whose answers began.", worker.prompt_tokens),
        ("steps", "Steps of the engine.", worker.steps),
        ("cancelled", "Answers given up, since nobody waited for them any longer.", worker.cancelled),
        ("failed", "Answers that ended in an error of the engine.", worker.failed),
    ):
        yield CounterMetricFamily(f"{NAME}_{name}", meaning, value)
