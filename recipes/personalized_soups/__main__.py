"""Personalized Soups (Jang et al. 2023, arXiv 2310.11564) again, from one file of settings.

    SETTINGS=recipes/personalized_soups/settings_7b.toml
    python -m recipes.personalized_soups $SETTINGS --out soups --plan       what it takes
    python -m recipes.personalized_soups $SETTINGS --out soups --dry-run    does all connect?
    python -m recipes.personalized_soups $SETTINGS --out soups
    python -m recipes.personalized_soups $SETTINGS --out soups --stages novel

Everything goes into one folder, and what is done is not done again. The dry run goes the same way on random models of
a few thousand parameters, in half a minute on two cores; its figures mean nothing. With the paper's data, models and
judge its soups are reported at an average win rate of about 55 %; an average depends on which methods take part.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: idle threads sleep instead of spinning

from recipes.personalized_soups.dry import dry
from recipes.personalized_soups.plan import print_plan
from recipes.personalized_soups.settings import Settings, read_settings
from recipes.personalized_soups.whole import STAGES, run_recipe, stages_of
from rich.console import Console

from counterpoint.stages import Stages
from counterpoint.types import CounterpointError


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("recipes.personalized_soups", description=__doc__.splitlines()[0])
    parser.add_argument("settings", type=Path, help="such as recipes/personalized_soups/settings_7b.toml")
    parser.add_argument("--out", type=Path, default=Path("personalized-soups"))
    parser.add_argument("--stages", help=f"some of {','.join(STAGES)}; else all but novel")
    parser.add_argument("--plan", action="store_true", help="say what it would do and need, and do nothing")
    parser.add_argument("--dry-run", action="store_true", help="go the same way on random models, in OUT/dry")
    parser.add_argument("--with-judge", action="store_true", help="in a dry run, ask the judges instead of a rule")
    given, console = parser.parse_args(arguments), Console(highlight=False)
    try:
        settings = read_settings(given.settings)
        names = stages_of(given.stages, settings, given.dry_run)
        if given.plan:
            print_plan(settings, console)
        elif given.dry_run:
            run_dry(settings, given.out / "dry", names, not given.with_judge, console)
        else:
            run_recipe(settings, given.out, names, False, Stages())
    except CounterpointError as error:
        parser.exit(2, f"error: {error}\n")


def run_dry(settings: Settings, out: Path, names: Sequence[str], rule: bool, console: Console) -> None:
    """The dry run, and what the real one would take."""
    if rule:
        console.print("In the place of the judges a rule labels: for every other preference, the longer answer.")
    run_recipe(dry(settings, out / "made"), out / "run", names, rule, Stages())
    console.print("All connects; these figures mean nothing. The real run:")
    print_plan(settings, console)


if __name__ == "__main__":
    main()
