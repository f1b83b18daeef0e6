"""Learning profiles: from choices of simulated people, from real answers of the embedded world, and from sentences.

python -m experiments.elicit.run demo/seeds/0 demo/seeds/1 demo/seeds/2     about 25 minutes on one core

A folder is what `python recipes/demo.py --out FOLDER --seed SEED` leaves; its answers are kept in `FOLDER/elicit.json`,
the simulated people in `--work`. Writes `results.json`, `table.json`, `regret.svg` and `README.md` beside this file.
"""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: idle threads sleep instead of spinning

import numpy as np
import torch
from experiments.elicit import embedded, simulate
from experiments.elicit.answers import World, read_world
from experiments.elicit.claims import (
    embedded_claims,
    logit_claims,
    people_claims,
    sentence_claims,
    sentence_intervals,
)
from experiments.elicit.figure import figure
from experiments.elicit.read import BANDS, Count, Labelled, best_threshold, count, read_labelled, remembering
from experiments.elicit.readme import readme

from counterpoint.artifacts import read_json, write_json, write_text
from counterpoint.evaluate.bootstrap import mean_interval
from counterpoint.evaluate.claims import write_claims
from counterpoint.profiles.sentence import THRESHOLD, Embed, embedder, read_sentence
from counterpoint.stages import Stages

HERE = Path(__file__).parent


def worlds(folders: Sequence[Path], stages: Stages) -> list[World]:
    found = []
    for folder in folders:
        with stages.stage(str(folder), "answers for every profile of the grid, scored") as bar:
            found.append(read_world(folder, bar.task("answers")))
    return found


def sentences(stages: Stages) -> tuple[dict[str, Any], list[Count]]:
    """The threshold that the first half asks for, counts of both halves, and what was got wrong."""
    with stages.stage("sentences", "read labelled sentences, half of them held out"):
        start = time.perf_counter()
        embed = remembering(embedder())
        loaded = time.perf_counter() - start
        rows = read_labelled(HERE / "sentences.jsonl")
        halves = {half: [row for row in rows if row.half == half] for half in ("tune", "held out")}
        counts = {half: [count(row, embed) for row in of] for half, of in halves.items()}
        best = best_threshold(halves["tune"], embed)
    table: dict[str, Any] = {"seconds_to_load": round(loaded, 1), "threshold": THRESHOLD, "best_on_tune": best}
    for half, found in counts.items():
        precision, recall = sentence_intervals(found)
        table[half] = {"n": len(found), "precision": precision.to_dict(), "recall": recall.to_dict()}
    table["nothing asked, held out"] = quiet(halves["held out"], counts["held out"])
    table["wrong, held out"] = [said(row, embed) for row, c in zip(halves["held out"], counts["held out"], strict=True)
                                if c.wrong or c.missed]  # fmt: skip
    return table, counts["held out"]


def quiet(rows: Sequence[Labelled], counts: Sequence[Count]) -> dict[str, int]:
    """Sentences that ask for nothing, and how many of them were left alone."""
    asked_nothing = [c for row, c in zip(rows, counts, strict=True) if not row.wanted]
    return {"n": len(asked_nothing), "left alone": sum(not c.wrong for c in asked_nothing)}


def said(row: Labelled, embed: Embed) -> dict[str, Any]:
    reading = read_sentence(row.text, BANDS[row.band], embed)
    heard = dict(reading.profile.weights) if reading.profile else {}
    return {"text": row.text, "wanted": list(row.wanted), "heard": heard, "uncertain": list(reading.uncertain)}


def means(found: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    return {
        way: {final: mean_interval(np.array(regret_U), seed=0).to_dict() for final, regret_U in finals.items()}
        for way, finals in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, default=Path("demo/elicit"))
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--of-each-band", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start, stages = time.perf_counter(), Stages()
    people = simulate.run(arguments.work, arguments.people, stages)
    shown = worlds(arguments.folders, stages)
    real = embedded.run(shown, arguments.work, arguments.of_each_band, stages)
    table, counts = sentences(stages)
    command = "python -m experiments.elicit.run " + " ".join(map(str, arguments.folders))
    seconds = round(time.perf_counter() - start, 1)
    seeds = [read_json(folder / "summary.json")["seed"] for folder in arguments.folders]
    claims = [
        *people_claims(people, command, seconds),
        *logit_claims(people, command, seconds),
        *embedded_claims(real, seeds, command, seconds),
        *sentence_claims(counts, command, seconds),
    ]
    settings = {name: asdict(setting) for name, setting in simulate.SETTINGS.items()}
    whole = {"settings": settings, "people": people, "embedded": means(real), "sentences": table}
    write_json(HERE / "table.json", whole)
    write_claims(HERE / "results.json", claims)
    write_text(HERE / "regret.svg", figure(people) + "\n")
    write_text(HERE / "README.md", readme(whole))
    for claim in claims:
        print(f"{'holds' if claim.holds else 'fails'}  {claim.claim}: {claim.difference}")


if __name__ == "__main__":
    main()
