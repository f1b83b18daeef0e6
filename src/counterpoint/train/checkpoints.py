"""Which checkpoint a killed run resumes from."""

import json
import shutil
from pathlib import Path

STATE = "trainer_state.json"


def newest_checkpoint(work: Path) -> Path | None:
    """The newest whole checkpoint in a trainer's folder, or None; half-written ones are removed.

    A trainer writes `trainer_state.json` last, so a checkpoint without a readable one was cut short by a kill.
    `resume_from_checkpoint=True` would take it all the same, as it looks at the highest number only.
    """
    whole = []
    for folder in work.glob("checkpoint-*"):
        if _is_whole(folder):
            whole.append(folder)
        else:
            shutil.rmtree(folder)
    return max(whole, key=lambda folder: int(folder.name.removeprefix("checkpoint-")), default=None)


def _is_whole(folder: Path) -> bool:
    try:
        json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return False
    return True
