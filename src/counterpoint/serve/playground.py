"""The page at `/`, and `/v1/band`: what there is to choose from, and what was measured."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from counterpoint.decode.band import METHODS, Band
from counterpoint.profiles import format_profile
from counterpoint.profiles.bounds import as_pairs
from counterpoint.serve.app_state import State, state_of
from counterpoint.serve.errors import Refused, refused
from counterpoint.serve.measured import Point, measured
from counterpoint.serve.wanted import read_plan
from counterpoint.types import CounterpointError, Profile

router = APIRouter()

PAGE = Path(__file__).parent / "page"
PLOTLY = Path(str(files("plotly"))) / "package_data" / "plotly.min.js"
STATIC = {path.name: path for path in (*PAGE.iterdir(), PLOTLY)}
"""All that the page may fetch besides the API, by name: a request chooses among these, and never names a file."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class DimensionCard(BaseModel):
    name: str
    description: str
    axis: str


class MethodCard(BaseModel):
    """A method; `why` says what it lacks where no profile of one dimension, nor an even one, can be served."""

    name: str
    available: bool
    why: str | None


class ExpertCard(BaseModel):
    """An expert; `scores` are its mean rewards on training prompts, empty where none were measured."""

    name: str
    dimension: str
    scores: dict[str, float]


class DefaultCard(BaseModel):
    """What a request gets that says nothing: a method, and a profile (None: nobody's)."""

    model: str
    profile: str | None


class BandCard(BaseModel):
    """What a band offers: `strengths` did best on training prompts, `points` were measured when it was built.

    `scorers` are dimensions that answers can be scored on, in the rewards' own units, which need not be those of the
    experts' `scores` and of `points`.
    """

    dimensions: list[DimensionCard]
    methods: list[MethodCard]
    experts: list[ExpertCard]
    default: DefaultCard
    strengths: dict[str, float]
    bounds: dict[str, tuple[float, float | None]]
    scorers: list[str]
    points: list[Point]
    most_tokens: int


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(PAGE / "index.html", headers=HEADERS)


@router.get("/static/{name}", include_in_schema=False)
async def static(name: str) -> FileResponse:
    if name not in STATIC:
        raise Refused(f"there is no {name!r} on this page", 404)
    return FileResponse(STATIC[name], headers=HEADERS)


@router.get("/v1/band", summary="What the band offers")
async def band_card(request: Request) -> BandCard:
    state = state_of(request)
    points = await run_in_threadpool(measured, state.band.folder, state.band.dimensions)
    return await state.worker.call(lambda: card(state, points))


def card(state: State, points: list[Point]) -> BandCard:
    """Tell of a band. Methods are tried, which reads controllers and gates: not to be called during a step."""
    band, (profile, method) = state.band, state.default
    return BandCard(
        dimensions=[DimensionCard(name=d.name, description=d.description, axis=d.axis) for d in band.file.dimensions],
        methods=list(methods(band)),
        experts=[ExpertCard(name=e.name, dimension=e.dimension, scores=e.scores) for e in band.file.experts],
        default=DefaultCard(model=method, profile=format_profile(profile) if profile else None),
        strengths=band.file.strengths,
        bounds=as_pairs(band.bounds),
        scorers=list(state.scorers.dimensions),
        points=points,
        most_tokens=state.settings.max_tokens,
    )


def methods(band: Band) -> Iterator[MethodCard]:
    """Each method, and what hinders it: its own refusal of an even profile, where single dimensions fail as well."""
    served = list(dict.fromkeys(expert.dimension for expert in band.experts))
    weights: Sequence[Mapping[str, float]] = [dict.fromkeys(served, 1.0), *({name: 1.0} for name in served)]
    for method in METHODS:
        whys = [refusal(band, method, Profile(one)) for one in weights if one]
        free = None in whys or not whys
        yield MethodCard(name=method, available=free, why=None if free else whys[0])


def refusal(band: Band, method: str, profile: Profile) -> str | None:
    try:
        read_plan(band, profile, method)
    except CounterpointError as error:
        return refused(error).said
    return None
