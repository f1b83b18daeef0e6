"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from counterpoint.serve.unserved import UNKNOWN, UNSUPPORTED
from counterpoint.types import Away, CounterpointError

KINDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
LONGEST_QUOTE = 60
EXPERT_S = 5.0
"""When an expert that was away may be back."""


class ErrorBody(BaseModel):
    """What went wrong, the field at fault where there is one, and a word for it that a program can act on."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    error: ErrorBody


class Refused(CounterpointError):
    """A request that is not served, and the HTTP status that says why.

    `public` is told instead of a message that names what is the operator's alone, such as files and addresses.
    """

    public: str | None = None

    def __init__(
        self,
        message: str,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def said(self) -> str:
        """What a client reads of it."""
        return self.public or str(self)


class ExpertAway(Refused):
    """A model behind an endpoint failed."""

    public = "an expert that this needs did not answer; ask again, or with a profile that leaves it out"

    def __init__(self, message: str) -> None:
        super().__init__(message, 503, "expert_away", retry_after=EXPERT_S)


class Broken(Refused):
    """A file of the band's own is at fault, which the client neither knows of nor can mend."""

    public = "a file of the band that this needs is broken; the server's log says which"

    def __init__(self, message: str) -> None:
        super().__init__(message, 503, "file_broken")


def refused(error: CounterpointError) -> Refused:
    """A mistake as a refusal; what says no status of its own is the client's."""
    if isinstance(error, Away):
        return ExpertAway(str(error))
    return error if isinstance(error, Refused) else Refused(str(error))


def body_of(message: str, status: int, code: str | None = None, param: str | None = None) -> dict[str, object]:
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def told(error: CounterpointError) -> dict[str, object]:
    """An error as the body of a reply, or as an event of a stream that has begun."""
    found = refused(error)
    return body_of(found.said, found.status, found.code, found.param)


def reply_to(error: CounterpointError) -> JSONResponse:
    found = refused(error)
    headers = {} if found.retry_after is None else {"Retry-After": str(max(1, round(found.retry_after)))}
    return JSONResponse(told(found), found.status, headers)


def install(app: FastAPI) -> None:
    """Let every error of an application be told in this shape."""

    @app.exception_handler(CounterpointError)
    async def _ours(request: Request, error: CounterpointError) -> JSONResponse:
        request.scope.setdefault("state", {})["refusal"] = refused(error)
        return reply_to(error)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        absent = error.status_code in (404, 405)
        said = f"there is no {request.method} {request.url.path}; see /openapi.json" if absent else str(error.detail)
        body = body_of(said, error.status_code, CODES.get(error.status_code))
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return reply_to(invalid(error.errors()))


def invalid(errors: Sequence[Mapping[str, Any]]) -> Refused:
    """What validation found first; of a field that may be of several kinds, what the nearest of them misses."""
    field = _names(errors[0]["loc"])[:1]
    of_field = [error for error in errors if _names(error["loc"])[:1] == field]
    first = max(of_field, key=lambda error: len(error["loc"]))
    where, said = ".".join(_names(first["loc"])), first.get("ctx", {})
    if "field" in said:
        code = first["type"] if first["type"] in (UNSUPPORTED, UNKNOWN) else None
        whole = where if where.endswith(said["field"]) else f"{where}.{said['field']}".lstrip(".")
        return Refused(first["msg"], code=code, param=whole)
    if first["type"] == "json_invalid":
        return Refused(f"the body is not JSON: {said.get('error', first['msg'])}", code="invalid_json")
    expected = " or ".join(dict.fromkeys(e["msg"] for e in of_field if _names(e["loc"]) == _names(first["loc"])))
    found = "" if first["type"] == "missing" else f"; found {_quote(first['input'])}"
    return Refused(f"{where}: {expected}{found}" if where else f"{expected}{found}", param=where or None)


def _names(loc: Sequence[str | int]) -> list[str]:
    """Where in the body: without the names of the kinds that a value may be of."""
    kinds = ("body", "str", "float", "int", "constrained-str", "constrained-int")
    return [str(part) for part in loc if part not in kinds and "[" not in str(part)]


def _quote(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."
