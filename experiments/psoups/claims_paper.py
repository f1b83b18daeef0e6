"""The paper's table: who wins for whom, criterion by criterion and summed, and what each method cost to train.

A verdict is +1, 0 or -1 on each of a profile's criteria, by the exact rules; the sign of their sum decides.
"""

from typing import Any

import numpy as np
from experiments.mope.measure import Measured
from experiments.psoups.methods import PROMPTS, SAMPLES
from experiments.psoups.paper import PAPER, built, combined, own_experts, places
from experiments.psoups.setting import by_prompt, wanted_mean
from experiments.psoups.study import Study, figures, rounded

from counterpoint.artifacts import read_json
from counterpoint.evaluate.bootstrap import Interval, mean_interval
from counterpoint.evaluate.claims import Claim
from counterpoint.evaluate.wins import average_win_share, verdict_table, win_matrix_of, win_share
from counterpoint.rewards.calibrate import bt_reward, profile_weights
from counterpoint.rewards.scorer import Scorer
from counterpoint.train.controller import references
from counterpoint.train.run import RECORD

ANSWERS = "paper"
WINS = "share of prompts and profiles won, ties as half, less one half"
PAIRS = (
    *[("p-soups@1", other) for other in PAPER[:-1]], ("p-morl", "prompted"), ("multitask", "prompted"),
    ("rlhf", "vanilla"), ("p-soups@best", "p-soups@1"), ("p-soups@best", "prompted"), ("p-soups@best", "p-morl"),
    ("p-soups@1", "p-soups factors@1"), ("p-soups@best", "p-soups factors@best"), ("p-soups@1", "p-soups unasked@1"),
    ("p-soups@1", "p-mixture-prob@1"), ("p-soups@1", "p-mixture-log@1"), ("p-soups@best", "p-mixture-log@best"),
    ("p-soups@best", "best-of-n soup@best"), ("p-soups@1", "best-of-n soup asked@1"),
    ("p-soups plain@best", "best-of-n soup@best"), ("p-soups plain@best", "p-soups plain@1"),
    ("p-soups plain@1", "p-soups@1"), ("p-soups plain@best", "p-soups@1"), ("p-soups plain@best", "multitask"),
    ("p-soups unasked@best", "best-of-n soup@best"),
)  # fmt: skip


def everyone(study: Study) -> tuple[str, ...]:
    """All ways to answer."""
    setting = study.settings[0]
    ways = (f"{method}@{at}" for method in combined(setting) for at in places(method))
    return tuple(dict.fromkeys((*PAPER, *ways, *built(setting))))


def claims_of_paper(study: Study, verdict_SMMNR: np.ndarray) -> list[Claim]:
    """Which method wins more often than which, and which one earns more."""
    share_MMP = shares(study, verdict_SMMNR)
    profiles, names, claims = study.settings[0].task.profiles, everyone(study), []
    for a, b in PAIRS:
        if not {a, b} <= set(names):
            continue
        share_P = share_MMP[names.index(a), names.index(b)]
        claims.append(study.claim(f"{a} wins against {b}", a, b, mean_interval(share_P - 0.5, seed=0), WINS))
        a_P, b_P = (study.reward_P(ANSWERS, name, profiles) for name in (a, b))
        claims.append(study.earns_more(f"{a} earns more than {b}", a, b, a_P, b_P))
    return claims


def verdicts(study: Study) -> np.ndarray:
    """`verdict_SMMNR`: for each seed, each method against each, on every draw of a prompt and profile."""
    task = study.settings[0].task
    wanted_RD = profile_weights(task.profiles, task.names) > 0
    by_method = [study.measured(ANSWERS, name) for name in everyone(study)]
    scores_MSNRD = np.stack([[found.z_PRD for found in by_seed] for by_seed in by_method])
    tables = [
        verdict_table(scores_MSNRD[:, s], wanted_RD, np.full(len(task.names), 1e-9)) for s in range(len(study.seeds))
    ]
    return np.stack(tables)


def shares(study: Study, verdict_SMMNR: np.ndarray) -> np.ndarray:
    """`share_MMP`, ties as half, averaged over seeds and draws."""
    share_MMN = np.mean([win_share(verdict_MMNR) for verdict_MMNR in verdict_SMMNR], axis=0)
    return by_prompt(study.name, share_MMN.transpose(2, 0, 1)).transpose(1, 2, 0)


def table_of_paper(study: Study, verdict_SMMNR: np.ndarray) -> dict[str, Any]:
    """Every method: win rates, rewards in all and by criterion, correctness, length and distance from the base."""
    verdict_MMNR = np.concatenate(list(verdict_SMMNR), axis=2)
    average = average_win_rates(study, verdict_SMMNR)
    half, drop = (win_matrix_of(verdict_MMNR, ties) for ties in ("half", "drop"))
    table = {}
    for m, name in enumerate(everyone(study)):
        row = figures_of(study, name)
        if name in PAPER:
            row["average_pairwise_win_rate"] = figures(average[name])
            row["bt_by_models"] = bt_by_models(study, name)
        row["wins_against"] = {
            other: {"ties_as_half": rate(half[m][n]), "ties_dropped": rate(drop[m][n])}
            for n, other in enumerate(everyone(study))
            if other in PAPER and other != name
        }
        table[name] = row
    return {"methods": table, "training": costs(study), "strengths": study.json("paper-strengths.json")}


def average_win_rates(study: Study, verdict_SMMNR: np.ndarray) -> dict[str, Interval]:
    """The average pairwise win rate among the paper's methods, with its interval by prompt."""
    among = [everyone(study).index(name) for name in PAPER]
    share_MN = np.mean([average_win_share(v[np.ix_(among, among)]) for v in verdict_SMMNR], axis=0)
    share_PM = by_prompt(study.name, share_MN.T)
    return {name: mean_interval(share_PM[:, m], seed=0) for m, name in enumerate(PAPER)}


def rate(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def figures_of(study: Study, name: str) -> dict[str, Any]:
    """Means over seeds and profiles, with intervals by prompt."""
    task = study.settings[0].task
    runs: list[Measured] = study.measured(ANSWERS, name)
    wanted_RD = profile_weights(task.profiles, task.names) > 0

    def mean_P(values_SNR: list[np.ndarray]) -> dict[str, float]:
        return rounded(by_prompt(study.name, np.mean(values_SNR, axis=0)).mean(axis=1))

    z_PRD = np.mean([run.z_PRD for run in runs], axis=0)
    found: dict[str, Any] = {
        "reward": mean_P([wanted_mean(run.z_PRD, task.profiles, task.names) for run in runs]),
        "bt_reward": mean_P([wanted_mean(run.bt_PRD, task.profiles, task.names) for run in runs]),
        "tokens": mean_P([run.length_PR for run in runs]),
        "nats_per_token_from_base": mean_P([run.ratio_PR for run in runs]),
        "where_wanted": {d: round(float(z_PRD[:, wanted_RD[:, i], i].mean()), 3) for i, d in enumerate(task.names)},
    }
    correct = [run.correct_PR for run in runs if run.correct_PR is not None]
    return {**found, "correct": mean_P(correct)} if correct else found


def bt_by_models(study: Study, name: str) -> dict[str, float]:
    """What the answers earn from the reward models that policies learn from: far above the rules is over-optimised."""
    bt_SNR = []
    for setting, out in zip(study.settings, study.outs, strict=True):
        task, texts = setting.task, read_json(out / ANSWERS / f"{name}.json")["texts"]
        asked = [prompt for prompt in task.test_prompts for _ in task.profiles]
        said = references(setting.band, task.test_prompts, setting.max_tokens, out / ANSWERS / "base")
        reference_ND = task.scores(setting.models, task.test_prompts, said)
        scores_NRD = task.scores(Scorer(setting.models), asked, texts).reshape(-1, len(task.profiles), len(task.names))
        bt_SNR.append(wanted_mean(bt_reward(scores_NRD, reference_ND[:, None]), task.profiles, task.names))
    return rounded(by_prompt(study.name, np.mean(bt_SNR, axis=0)).mean(axis=1))


def costs(study: Study) -> dict[str, dict[str, float]]:
    """Iterations, sampled responses and seconds of each method's training, and where it ended; means over seeds."""
    kinds = [kind for kind in ("p-soups", "p-soups plain") if kind in combined(study.settings[0])]
    own: dict[str, list[str]] = {
        kind: [expert.name for expert in own_experts(study.settings[0], kind)] for kind in kinds
    }
    table = {}
    own |= {"p-morl": ["p-morl"], "rlhf": ["rlhf"]}
    for method, folders in own.items():
        logs = [read_json(out / "policies" / folder / RECORD) for out in study.outs for folder in folders]
        iterations = sum(map(len, logs)) // len(study.outs)
        table[method] = {
            "policies": len(folders),
            "iterations": iterations,
            "responses": iterations * PROMPTS[study.name] * SAMPLES,
            "seconds": round(sum(seconds_of(entry) for log in logs for entry in log) / len(study.outs), 1),
            "first_reward": round(float(np.mean([log[0]["reward"] for log in logs])), 4),
            "last_reward": round(float(np.mean([log[-1]["reward"] for log in logs])), 4),
            "last_kl": round(float(np.mean([log[-1]["kl"] for log in logs])), 4),
        }
    return table


def seconds_of(entry: dict[str, float]) -> float:
    return entry["seconds_roll_out"] + entry["seconds_epochs"]
