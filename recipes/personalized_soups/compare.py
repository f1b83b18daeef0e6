"""All methods on the test prompts: what they answer, and who wins by the judge."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from recipes.personalized_soups.judges import account_of, asking
from recipes.personalized_soups.methods import band_of, plans_of
from recipes.personalized_soups.run import Run, everybody

from counterpoint.artifacts import hash_files, write_json
from counterpoint.build.answer import Texts, answer_entry, requests_of
from counterpoint.build.evaluation import asked_of, criteria_of
from counterpoint.cli.evaluate import print_judged
from counterpoint.decode.band import Band
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.evaluate.judged import gather, judge_methods, judged_dict, questions_of
from counterpoint.models.adapter import TENSORS
from counterpoint.profiles import format_profile
from counterpoint.stages import Bar
from counterpoint.types import Dimension, Profile


def evaluation(run: Run) -> None:
    """All methods for all people on the test prompts, by the judge."""
    compare(run, everybody(run.known), "evaluation")


def compare(run: Run, people: Sequence[Profile], name: str) -> None:
    """Answer, compare and print; `out/name.json` has all tables, and `out/answers/name` what was said."""
    methods, place = run.settings.evaluation.methods, run.out / "answers" / name
    why = f"{len(methods)} methods for {len(people)} people on {len(run.test)} prompts"
    with run.stages.stage(f"answers for {name}", why) as bar:
        band = band_of(run, people)
        texts_MPR = [answers(run, band, method, people, place / method, bar) for method in methods]
    criteria, wanted_RC = criteria_of(band, people)
    table = verdicts(run, people, criteria, wanted_RC, texts_MPR, name)
    write_json(run.out / f"{name}.json", table)
    print_judged(table)


def answers(run: Run, band: Band, method: str, people: Sequence[Profile], place: Path, bar: Bar) -> Texts:
    """`texts_PR` of a method; what it said before, with the same adapters to the same requests, is in `place`."""
    how = run.settings.evaluation
    sampling = Sampling(temperature=how.temperature, max_tokens=how.max_tokens, seed=how.seed)
    requests = requests_of(band, plans_of(method, people, how.rlhf_asked), run.test, sampling)
    work = place / digest(run, [method, *(name for person in people for name in person.weights)], requests)
    return answer_entry(band, requests, len(run.test), len(people), bar.task(method), work)


def digest(run: Run, names: Sequence[str], requests: Sequence[Request]) -> str:
    """What answers depend on: adapters, gates, contexts, how they are drawn, and in which numbers."""
    adapters = [path for name in dict.fromkeys(names) if (path := run.policy(name) / TENSORS).exists()]
    asked = [[[sorted(row.gate.items()) for row in r.plan.rows], r.contexts, asdict(r.sampling)] for r in requests]
    text = json.dumps([run.settings.models.dtype, hash_files(*adapters), asked])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def verdicts(
    run: Run,
    people: Sequence[Profile],
    criteria: Sequence[Dimension],
    wanted_RC: np.ndarray,
    texts_MPR: Sequence[Texts],
    name: str,
) -> dict[str, Any]:
    """Every two methods by each criterion of each person, and by the last one, quality on the whole."""
    how = run.settings.evaluation
    places, asked = questions_of(run.test, texts_MPR, criteria, asked_of(wanted_RC))
    with run.stages.stage(f"verdicts for {name}", asking(run.comparing, asked, forced=False)) as bar:
        said = run.comparing.compare(asked, forced=False, progress=bar.task("asked"))
    judged = judge_methods(
        gather(places, said, (len(how.methods), len(run.test), len(people), len(criteria))),
        wanted_RC,
        methods=how.methods,
        profiles=[format_profile(person) for person in people],
        criteria=[criterion.name for criterion in criteria[:-1]],
        seed=how.seed,
        general=True,
    )
    return {**judged_dict(judged), "judge": account_of(run.comparing, len(asked))}
