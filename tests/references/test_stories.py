"""A real pre-trained model: the engine against transformers, token for token."""

from pathlib import Path

import pytest
import torch

from counterpoint.compose.plan import Plan, Row
from counterpoint.decode.band import Band
from counterpoint.decode.request import Request
from counterpoint.decode.sampling import Sampling
from counterpoint.models.band_file import new_band
from counterpoint.types import Dimension

PUBLISHED = (
    ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball."
)


@pytest.fixture(scope="module")
def stories(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Band:
    folder = tmp_path_factory.mktemp("stories")
    new_band(folder, str(shared / "models" / "stories260k"), [Dimension("happy")])
    return Band.load(folder)


def test_the_published_continuation(stories: Band) -> None:
    """Greedy decoding continues "Once upon a time" as the model's author published it."""
    assert stories.chat("Once upon a time", sampling=Sampling(temperature=0, max_tokens=60)).startswith(PUBLISHED)


def test_a_ragged_batch_equals_generate(stories: Band) -> None:
    texts = ["Once upon a time", "The dog", "One day, a girl named Mia went to the big park and saw"]
    requests, expected = [], []
    for text in texts:
        ids = stories.tokenizer(text)["input_ids"]
        out = stories.model.generate(torch.tensor([ids]), max_new_tokens=80, do_sample=False, pad_token_id=0)
        expected.append([token for token in out[0, len(ids) :].tolist() if token != 1])
        requests.append(Request(Plan((Row(),)), (tuple(ids),), Sampling(temperature=0, max_tokens=80)))
    assert [list(completion.tokens) for completion in stories.engine.run(requests)] == expected
