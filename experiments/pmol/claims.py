"""What may be claimed of PMoL and its relatives: paired differences by prompt, averaged over seeds.

python -m experiments.pmol.claims    after experiments.pmol.run; writes results.json, table.json, README.md, doses.svg
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from experiments.pmol import (
    claims_ablations,
    claims_doses,
    claims_mixing,
    claims_probe,
    claims_scaling,
    claims_texts,
)
from experiments.pmol.figure import doses_figure
from experiments.pmol.readme import page

from counterpoint.artifacts import read_json, write_json, write_text
from counterpoint.evaluate.claims import write_claims

HERE = Path(__file__).parent
PARTS: Mapping[str, ModuleType] = {
    "mixing": claims_mixing,
    "ablations": claims_ablations,
    "doses": claims_doses,
    "scaling": claims_scaling,
    "probe": claims_probe,
    "texts": claims_texts,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("demo/pmol"))
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    claims, tables = [], {}
    for name, part in PARTS.items():
        file = arguments.work / f"{name}.json"
        if not file.exists():
            print(f"{file} is not there: no claims of {name}")
            continue
        found = read_json(file)
        claims += part.claims(found)
        tables[name] = part.table(found)
    write_claims(arguments.out / "results.json", claims)
    write_json(arguments.out / "table.json", tables)
    write_text(arguments.out / "README.md", page(tables))
    if "doses" in tables:
        write_text(arguments.out / "doses.svg", doses_figure(tables["doses"]))
    for claim in claims:
        print(f"{'holds' if claim.holds else 'fails'}  {claim.claim}: {claim.difference}")


if __name__ == "__main__":
    main()
