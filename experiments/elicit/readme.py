"""The tables of `README.md`, written from what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

HEAD = """# Learning a profile

    python -m experiments.elicit.run demo/seeds/0 demo/seeds/1 demo/seeds/2

`table.json` has every figure, `results.json` the claims; intervals are 95 %, by person or by sentence.

## Simulated people

Four dimensions, 200 profiles whose rewards are independent standard normals, 25 choices between two of them by the
logistic of their difference in utility. A person's weights point anywhere and have length 2 (their decisiveness), as
the learner's prior N(0, I) expects. Regret is in standard deviations of utility among the profiles, that is at weights
of length 1; in logits of the person's own choices it is twice that at length 2. The goal of 0.15 names no unit, and
whether it is met with labels turned over depends on which is taken. How pairs are picked and how the posterior is
approximated were chosen in trials on other simulated people. `information` shows the most informative pair among
the winners of 32 Thompson draws, `thompson` the winners of two, `greedy` the two best by the mean.

![Regret by choices, and calibration](regret.svg)

"""


def readme(whole: Mapping[str, Any]) -> str:
    return HEAD + _people(whole["people"]) + _stopping(whole["people"]) + _embedded(whole["embedded"]) + _sentences(
        whole["sentences"]
    )  # fmt: skip


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def said(found: Mapping[str, float] | None) -> str:
    return "-" if found is None else f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _people(people: Mapping[str, Any]) -> str:
    rows = [
        [name, policy, *(said(found[key]) for key in ("regret", "regret_logits", "shown", "cosine"))]
        for name, by_policy in people.items()
        for policy, found in by_policy.items()
    ]
    return table_of(["people", "pairs", "final regret", "in logits", "regret of what was shown", "cosine"], rows)


def _stopping(people: Mapping[str, Any]) -> str:
    text = (
        "## When to stop\n\nGood enough is a regret of at most 0.5 logits; a session settles once that has "
        "probability 0.9. `best` is the probability that the profile is the very best of the 200.\n\n"
    )
    keys = ("said_best", "was_best", "said_good", "was_good", "stopped", "choices_to_stop", "good_at_stop")
    rows = [[name, *(said(found["information"][key]) for key in keys)] for name, found in people.items()]
    head = ["people", "best: said", "was", "good: said", "was", "settled in 25", "choices", "good when settled"]
    return text + table_of(head, rows)


def _embedded(embedded: Mapping[str, Any]) -> str:
    text = (
        "## Real answers, real scorers\n\nSoups of the embedded world's experts at strength 3 answer for 98 profiles. "
        "People (weights of length 2 on one pole of each axis) choose between two answers to one question by the true "
        "rules; the learner sees the reward models' scores. Regret is in true utility, in standard deviations of an "
        "answer, on held-out questions, against the best of the 98. `weights`: the profile nearest to the learned "
        "weights. `best`: the profile whose place the belief likes best. That `weights` is the rule, and the margin of "
        "0.25 that a claim allows it, were set after a trial with 36 people of the same bands.\n\n"
    )
    finals = ("weights", "best", "true weights", "best for true weights", "any")
    rows = [[way, *(said(found[final]) for final in finals)] for way, found in embedded.items()]
    return text + table_of(["pairs", *finals], rows)


def _sentences(found: Mapping[str, Any]) -> str:
    rows = [[half, str(found[half]["n"]), said(found[half]["precision"]), said(found[half]["recall"])]
            for half in ("tune", "held out")]  # fmt: skip
    alone = found["nothing asked, held out"]
    text = (
        "## Sentences\n\nHand-written, and labelled when they were written; dimensions of the embedded world and of an "
        "assistant. A dimension counts as heard at a confidence of 1/2. The way of comparing (about 20 were tried) and "
        "the threshold were chosen on the first half. The held-out half is not untouched: reading its mistakes once "
        "showed that clauses were split at 'so', as in 'don't be so friendly', which was mended. Before that its "
        "precision was 0.957 and its recall 0.688, and that is the clean figure.\n\n"
    )
    end = f"Of {alone['n']} held-out sentences that ask for nothing, {alone['left alone']} were left alone.\n\n"
    wrong = "".join(
        f"- {one['text']!r}: wanted {', '.join(one['wanted']) or 'nothing'}, "
        f"heard {', '.join(one['heard']) or 'nothing'}\n"
        for one in found["wrong, held out"]
    )
    return text + table_of(["half", "sentences", "precision", "recall"], rows) + end + "What went wrong:\n\n" + wrong
