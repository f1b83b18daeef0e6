"""Who wins by a judge's verdicts: each pair of methods, each prompt, each profile, one criterion at a time.

Axes: `M` methods, `P` prompts, `R` profiles, `C` criteria, `S` resamples. The protocol is that of Jang et al. (2023,
arXiv 2310.11564): a verdict per criterion, summed over those that a profile asks for. A verdict that was refused or
could not be read is missing, not a tie: what it would have been a part of is left out of every rate, and counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterpoint.evaluate.bootstrap import RESAMPLES, Interval, percentile_interval, resample_counts
from counterpoint.types import Dimension, Prompt, Question, Verdict

Place = tuple[int, int, int, int, int]
"""Two methods, prompt, profile and criterion."""

Grid = tuple[tuple[Interval | None, ...], ...]


@dataclass(frozen=True)
class Votes:
    """`verdict[a, b]` is 1 where a wins, and means something where `known` only; both are `[M, M, P, R]` or more."""

    verdict: NDArray[np.int8]
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class PairTable:
    """Win rates over one kind of verdict; intervals are by prompt.

    `win_MM`: ties as half; `decided_MM`: ties left out; the averages are over the other methods, and depend on which
    they are. `None` on the diagonal, and where there is nothing to count.
    """

    win_MM: Grid
    decided_MM: Grid
    average_M: tuple[Interval | None, ...]
    average_decided_M: tuple[Interval | None, ...]
    wins_MM: tuple[tuple[int, ...], ...]
    ties_MM: tuple[tuple[int, ...], ...]
    unanswered_MM: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Judged:
    """Methods compared by a judge: by the sum over criteria, in all and per profile, and by each criterion alone.

    `general` is a criterion apart, which is in no sum.
    """

    methods: tuple[str, ...]
    prompts: int
    seed: int
    resamples: int
    summed: PairTable
    by_profile: Mapping[str, PairTable]
    by_criterion: Mapping[str, PairTable]
    general: PairTable | None


def most_questions(methods: int, prompts: int, asked_RC: ArrayLike) -> int:
    """How many questions a comparison has at most: fewer where two methods gave the same answer."""
    return methods * (methods - 1) // 2 * prompts * int(np.asarray(asked_RC, dtype=np.bool_).sum())


def questions_of(
    prompts: Sequence[Prompt],
    texts_MPR: Sequence[Sequence[Sequence[str]]],
    criteria: Sequence[Dimension],
    asked_RC: ArrayLike,
) -> tuple[list[Place], list[Question]]:
    """Each pair of methods, on each prompt, for each profile, by each criterion that is asked for it."""
    asked = np.argwhere(np.asarray(asked_RC, dtype=np.bool_)).tolist()
    places = [
        (a, b, p, r, c)
        for a, b in combinations(range(len(texts_MPR)), 2)
        for p in range(len(prompts))
        for r, c in asked
    ]
    questions = [Question(prompts[p], texts_MPR[a][p][r], texts_MPR[b][p][r], criteria[c]) for a, b, p, r, c in places]
    return places, questions


def gather(places: Sequence[Place], verdicts: Sequence[Verdict | None], shape: tuple[int, int, int, int]) -> Votes:
    """Verdicts at their places, `[M, M, P, R, C]` for a shape `(M, P, R, C)`: antisymmetric, known where there are any.

    A method draws with itself.
    """
    verdict = np.zeros((shape[0], *shape), dtype=np.int8)
    known = np.zeros(verdict.shape, dtype=np.bool_)
    known[np.arange(shape[0]), np.arange(shape[0])] = True
    for (a, b, *rest), given in zip(places, verdicts, strict=True):
        if given is not None:
            verdict[a, b, *rest], verdict[b, a, *rest] = given, -given
            known[a, b, *rest] = known[b, a, *rest] = True
    return Votes(verdict, known)


def sum_criteria(votes: Votes, wanted_RC: ArrayLike) -> Votes:
    """One verdict per pair, prompt and profile, `[M, M, P, R]`: the sign of the sum over the profile's criteria.

        verdict_r = sign( sum_c wanted_rc verdict_rc )

    Known only where every criterion in the sum is: the sum of those that are left would be another question.
    """
    wanted = np.asarray(wanted_RC, dtype=np.bool_)
    total = (votes.verdict * wanted).sum(axis=-1)
    known = np.asarray((votes.known | ~wanted).all(axis=-1), dtype=np.bool_)
    return Votes(np.sign(total).astype(np.int8), known)


def one_criterion(votes: Votes, criterion: int, asked_RC: ArrayLike) -> Votes:
    """The verdicts by one criterion, for the profiles that it is asked for."""
    rows = np.flatnonzero(np.asarray(asked_RC, dtype=np.bool_)[:, criterion])
    return Votes(votes.verdict[..., rows, criterion], votes.known[..., rows, criterion])


def ratio_interval(part_NP: ArrayLike, whole_NP: ArrayLike, counts_SP: NDArray[np.float64]) -> Interval | None:
    """The mean over N of `sum_p part_np / sum_p whole_np`, prompts resampled together; `None` where a whole is 0.

    Resamples that drew no prompt with anything to count are left out.
    """
    part, whole = np.asarray(part_NP, dtype=np.float64), np.asarray(whole_NP, dtype=np.float64)
    if not len(whole) or not whole.sum(axis=-1).all():
        return None
    value = (part.sum(axis=-1) / whole.sum(axis=-1)).mean()
    part_SN, whole_SN = counts_SP @ part.T, counts_SP @ whole.T
    full = whole_SN.all(axis=-1)
    return percentile_interval(value, (part_SN[full] / whole_SN[full]).mean(axis=-1))


def pair_table(votes: Votes, *, seed: int, resamples: int = RESAMPLES) -> PairTable:
    """Win rates of each method against each other one, and on average, from votes `[M, M, P, R]`."""
    counts_SP = resample_counts(votes.verdict.shape[2], resamples, seed)
    wins_MMP = ((votes.verdict > 0) & votes.known).sum(axis=-1)
    losses_MMP = wins_MMP.swapaxes(0, 1)
    known_MMP = votes.known.sum(axis=-1)
    half_MMP = (known_MMP + wins_MMP - losses_MMP) / 2
    decided_MMP = wins_MMP + losses_MMP
    others = [[b for b in range(len(wins_MMP)) if b != a] for a in range(len(wins_MMP))]

    def grid(part_MMP: NDArray[Any], whole_MMP: NDArray[Any]) -> Grid:
        return tuple(
            tuple(
                None if a == b else ratio_interval(part_MMP[a, [b]], whole_MMP[a, [b]], counts_SP)
                for b in range(len(part_MMP))
            )
            for a in range(len(part_MMP))
        )

    def averages(part_MMP: NDArray[Any], whole_MMP: NDArray[Any]) -> tuple[Interval | None, ...]:
        return tuple(ratio_interval(part_MMP[a, rest], whole_MMP[a, rest], counts_SP) for a, rest in enumerate(others))

    return PairTable(
        win_MM=grid(half_MMP, known_MMP),
        decided_MM=grid(wins_MMP, decided_MMP),
        average_M=averages(half_MMP, known_MMP),
        average_decided_M=averages(wins_MMP, decided_MMP),
        wins_MM=_counts(wins_MMP),
        ties_MM=_counts(known_MMP - decided_MMP),
        unanswered_MM=_counts((~votes.known).sum(axis=-1)),
    )


def judge_methods(
    votes: Votes,
    wanted_RC: ArrayLike,
    *,
    methods: Sequence[str],
    profiles: Sequence[str],
    criteria: Sequence[str],
    seed: int,
    general: bool = False,
    resamples: int = RESAMPLES,
) -> Judged:
    """All tables of votes `[M, M, P, R, C]`; with `general` the last criterion is for all profiles, and in no sum.

    `wanted_RC` has a column for each of `criteria`, without the general one. `ValueError` for fewer than two methods.
    """
    if len(methods) < 2:
        raise ValueError(f"a win rate needs at least 2 methods, got {len(methods)}")
    wanted = np.asarray(wanted_RC, dtype=np.bool_)
    own = Votes(votes.verdict[..., : len(criteria)], votes.known[..., : len(criteria)])
    summed = sum_criteria(own, wanted)

    def table(chosen: Votes) -> PairTable:
        return pair_table(chosen, seed=seed, resamples=resamples)

    return Judged(
        methods=tuple(methods),
        prompts=votes.verdict.shape[2],
        seed=seed,
        resamples=resamples,
        summed=table(summed),
        by_profile={
            name: table(Votes(summed.verdict[..., [r]], summed.known[..., [r]])) for r, name in enumerate(profiles)
        },
        by_criterion={
            name: table(one_criterion(own, c, wanted)) for c, name in enumerate(criteria) if wanted[:, c].any()
        },
        general=table(Votes(votes.verdict[..., -1], votes.known[..., -1])) if general else None,
    )


def judged_dict(judged: Judged) -> dict[str, Any]:
    """All tables by the names of methods, ready for JSON."""

    def named(table: PairTable) -> dict[str, Any]:
        return table_dict(table, judged.methods)

    return {
        "summed": named(judged.summed),
        "by_profile": {name: named(table) for name, table in judged.by_profile.items()},
        "by_criterion": {name: named(table) for name, table in judged.by_criterion.items()},
        "general": None if judged.general is None else named(judged.general),
        "prompts": judged.prompts,
        "seed": judged.seed,
        "resamples": judged.resamples,
    }


def table_dict(table: PairTable, methods: Sequence[str]) -> dict[str, Any]:
    """`average[a]` and `against[a][b]`: both win rates of a, and how many verdicts they are from."""

    def pair(a: int, b: int) -> dict[str, Any]:
        return {
            "win_rate": _dict(table.win_MM[a][b]),
            "win_rate_without_ties": _dict(table.decided_MM[a][b]),
            "wins": table.wins_MM[a][b],
            "losses": table.wins_MM[b][a],
            "ties": table.ties_MM[a][b],
            "unanswered": table.unanswered_MM[a][b],
        }

    return {
        "average": {
            name: {"win_rate": _dict(half), "win_rate_without_ties": _dict(decided)}
            for name, half, decided in zip(methods, table.average_M, table.average_decided_M, strict=True)
        },
        "against": {
            a_name: {b_name: pair(a, b) for b, b_name in enumerate(methods) if b != a}
            for a, a_name in enumerate(methods)
        },
    }


def _dict(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval.to_dict()


def _counts(count_MMP: NDArray[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, row)) for row in count_MMP.sum(axis=-1))
