from pathlib import Path

import pytest

from counterpoint.testing import save_pico


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico model folder."""
    return save_pico(tmp_path_factory.mktemp("pico") / "base")
