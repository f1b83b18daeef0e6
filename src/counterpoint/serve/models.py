"""`/v1/models`: the methods that the band can be asked with, each of which is a model of OpenAI's."""

from fastapi import APIRouter, Request

from counterpoint.serve.app_state import State, state_of
from counterpoint.serve.playground import methods
from counterpoint.serve.replies import Model, Models
from counterpoint.serve.wanted import DEFAULT, parse_model

router = APIRouter(tags=["openai"])


@router.get("/v1/models", summary="The methods of the band")
async def listed(request: Request) -> Models:
    """`default`, and every method that the band can serve; a profile may follow a name, as in `soup:concise=1`."""
    state = state_of(request)
    found = await state.worker.call(lambda: [card.name for card in methods(state.band) if card.available])
    return Models(object="list", data=[model(state, name) for name in (DEFAULT, *found)])


@router.get("/v1/models/{name:path}", summary="One method, with or without a profile")
async def one(request: Request, name: str) -> Model:
    """A model by the name that a request would give; 404 for an unknown method, 400 for a profile that is none."""
    state = state_of(request)
    parse_model(name, state.band.dimensions, state.settings.method)
    return model(state, name)


def model(state: State, name: str) -> Model:
    return Model(id=name, object="model", created=state.began, owned_by="counterpoint")
