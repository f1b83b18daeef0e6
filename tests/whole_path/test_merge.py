"""A merge that is killed leaves nothing that could be taken for one, and a second run succeeds."""

import json
import subprocess
import sys
from pathlib import Path

from counterpoint.artifacts import read_json

MOMENTS = {
    "adapter": ("verify",),
    "model": ("apply_deltas", "write_text"),
}
"""The tensors are written; they are verified; all is there, but not under its own name."""

KILLER = """
import json, os, signal, sys
from pathlib import Path
import torch
from counterpoint.build import merge
from counterpoint.build.merge_sources import from_band
from counterpoint.stages import Stages

torch.set_num_threads(1)


def killed_after(call):
    def killed(*arguments, **named):
        found = call(*arguments, **named)
        if hasattr(found, "__enter__"):
            found.__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    return killed


def run(out, form, moment):
    if moment:
        setattr(merge, moment, killed_after(getattr(merge, moment)))
    merge.merge_experts(from_band(Path(sys.argv[1]), "terse=1, warm=1"), out, merge.MergeConfig(form=form), Stages())


found = []
for form, moments in json.loads(sys.argv[3]).items():
    out = Path(sys.argv[2]) / form
    for moment in [*moments, None]:
        if not (child := os.fork()):
            run(out, form, moment)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found.append((form, moment, code, out.exists(), len(list(out.parent.glob(f".{form}.new.*")))))
print(json.dumps(found))
"""
"""Imports once, and then runs and kills merges as children."""


def test_a_killed_merge_leaves_nothing_and_a_second_run_succeeds(band_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLER, str(band_folder), str(tmp_path), json.dumps(MOMENTS)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    assert len(found) == 5
    for form, moment, code, there, left in found:
        assert code == (-9 if moment else 0), (form, moment)
        assert there == (moment is None), (form, moment)
        assert left == (1 if moment else 0), (form, moment)  # each removes what the one before it left
    for form in MOMENTS:
        verified = read_json(tmp_path / form / "manifest.json")["config"]["merge"]["verified"]
        assert verified["difference"] < 1e-4 < verified["effect"]
