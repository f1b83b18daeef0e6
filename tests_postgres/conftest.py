"""The tests of the store, which hold here too, are found by their file names, as in their own folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "serve"))
