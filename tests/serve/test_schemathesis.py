"""Requests made up from the OpenAPI document: none is answered with a 5xx, and every reply is what the document says.

`COUNTERPOINT_EXAMPLES=500 pytest tests/serve/test_schemathesis.py` asks each endpoint so often.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

if TYPE_CHECKING:
    from tests.serve.conftest import Served

EXAMPLES = int(os.environ.get("COUNTERPOINT_EXAMPLES", "4"))
TRUE = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
SAID = {"model": "mixture-prob:warm,terse", "method": "moe", "profile": {"warm": 1.0}, "user": "ann"}
"""What no schema can tell: names that this band knows. Without them next to nothing would be answered with a 200."""


@pytest.fixture(scope="module")
def server(serve: Callable[..., "AbstractContextManager[Served]"]) -> "Iterator[Served]":
    """Its answers are short, and the length of a text stands in for the embedding model, which loads slowly."""
    with pytest.MonkeyPatch.context() as patch, serve(max_tokens=3, default_max_tokens=3) as running:
        patch.setattr("counterpoint.serve.learning.embedder", lambda: lengths)
        yield running


def lengths(texts: Sequence[str]) -> np.ndarray:
    return np.array([[1.0, len(text)] for text in texts])


def ask(operation: Any, mode: GenerationMode, checks: list[Any]) -> list[int]:
    """The statuses of made-up requests to one endpoint, of which each reply passes the checks."""
    statuses: list[int] = []

    @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @seed(0)
    @given(case=operation.as_strategy(generation_mode=mode))
    def made_up(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body |= {name: value for name, value in SAID.items() if name in case.body}
        reply = case.call()
        statuses.append(reply.status_code)
        too_long = reply.status_code == 413
        case.validate_response(
            reply, checks=[one for one in checks if not (too_long and one is negative_data_rejection)]
        )

    made_up()
    return statuses


def operations(server: "Served") -> dict[str, Any]:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    return {found.ok().label: found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)}


def test_every_reply_is_true_to_the_document(server: "Served") -> None:
    found = {label: ask(one, GenerationMode.POSITIVE, TRUE) for label, one in operations(server).items()}
    assert {"POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models", "POST /v1/feedback"} <= set(found)
    for label in ("POST /v1/completions", "GET /v1/models", "GET /v1/users/{user}/belief"):
        assert 200 in found[label], f"{label} was never answered"


def test_what_the_document_does_not_allow_is_refused(server: "Served") -> None:
    for label, one in operations(server).items():
        if label.startswith(("POST", "PUT")) and one.body:
            statuses = ask(one, GenerationMode.NEGATIVE, [*TRUE, negative_data_rejection])
            assert set(statuses) <= {400, 413}, label
