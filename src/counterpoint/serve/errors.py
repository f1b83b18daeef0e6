"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from counterpoint.types import CounterpointError

KINDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refused(CounterpointError):
    """A request that is not served, and the HTTP status that says why."""

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


def body_of(message: str, status: int, code: str | None = None, param: str | None = None) -> dict[str, object]:
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def reply_to(error: CounterpointError) -> JSONResponse:
    refused = error if isinstance(error, Refused) else Refused(str(error))
    headers = {} if refused.retry_after is None else {"Retry-After": str(max(1, round(refused.retry_after)))}
    return JSONResponse(body_of(str(refused), refused.status, refused.code, refused.param), refused.status, headers)


def install(app: FastAPI) -> None:
    """Let every error of an application be told in this shape."""

    @app.exception_handler(CounterpointError)
    async def _ours(_: Request, error: CounterpointError) -> JSONResponse:
        return reply_to(error)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(body_of(str(error.detail), error.status_code), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return reply_to(Refused(f"{where}: {first['msg']}" if where else first["msg"], param=where or None))
