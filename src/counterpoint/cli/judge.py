"""The options of a judge, which mean the same in every command that asks one, and what is printed of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterpoint.data.places import brief
from counterpoint.types import CounterpointError

if TYPE_CHECKING:
    from counterpoint.rewards.judge import LLMJudge

PANEL = "Judge"

JudgeUrl = Annotated[
    str | None, typer.Option("--judge", help="A server's address: http://host:8000/v1.", rich_help_panel=PANEL)
]
JudgeModel = Annotated[str | None, typer.Option(help="The model to ask there.", rich_help_panel=PANEL)]
JudgeKey = Annotated[
    str | None, typer.Option(help="The variable of its key: COUNTERPOINT_KEY...", rich_help_panel=PANEL)
]
JudgeTemperature = Annotated[float, typer.Option(help="Of the judge.", rich_help_panel=PANEL)]
JudgeMaxTokens = Annotated[
    int, typer.Option(help="Longest reply of the judge; more if it thinks.", rich_help_panel=PANEL)
]
JudgeConcurrency = Annotated[int, typer.Option(help="Calls at once.", rich_help_panel=PANEL)]
JudgeAttempts = Annotated[int, typer.Option(help="Attempts until a reply can be read.", rich_help_panel=PANEL)]
JudgeRepeats = Annotated[int, typer.Option(help="Ask each call so often, to see its noise.", rich_help_panel=PANEL)]
JudgeTimeout = Annotated[float, typer.Option(help="Seconds for a reply.", rich_help_panel=PANEL)]
JudgePrice = Annotated[
    str | None, typer.Option(help="Per million tokens read and written: 0.15,0.60.", rich_help_panel=PANEL)
]
JudgeCache = Annotated[Path | None, typer.Option(help="The file of replies that were paid for.", rich_help_panel=PANEL)]


def find_judge(*, url: str | None, model: str | None, price: str | None, **settings: Any) -> "LLMJudge | None":
    """The judge that was named, if one was; the settings are those of `JudgeConfig`."""
    from counterpoint.rewards.judge import JudgeConfig, LLMJudge

    if (url is None) != (model is None):
        missing = "--judge-model NAME" if model is None else "--judge URL"
        raise CounterpointError(f"a judge is a model at an address: {missing} is missing")
    if url is None or model is None:
        return None
    price_in, price_out = parse_price(price)
    return LLMJudge(JudgeConfig(url=url, model=model, price_in=price_in, price_out=price_out, **settings))


def parse_price(text: str | None) -> tuple[float | None, float | None]:
    """Read `--judge-price`: two numbers."""
    if text is None:
        return None, None
    try:
        price_in, price_out = map(float, text.split(","))
    except ValueError:
        raise CounterpointError(
            f"--judge-price {text!r}: expected two numbers, per million tokens read and written, such as 0.15,0.60"
        ) from None
    return price_in, price_out


def said_of(account: dict[str, Any]) -> list[str]:
    """What a judge's account of itself comes to, in lines."""
    cost = "" if account["cost"] is None else f", cost {account['cost']:.4f}"
    untold = f" (not counted in {account['untold']} replies)" if account["untold"] else ""
    lines = [
        f"{account['model']}: {account['asked']} replies asked for, {account['kept']} known from before; "
        f"{account['tokens_in']} tokens read, {account['tokens_out']} written{untold}{cost}",
        f"{account['refused']} calls refused, {account['rejected']} not taken by the server, {account['unparsed']} "
        f"never readable ({account['cut']} replies cut off): {account['unanswered']} of {account['questions']} "
        "questions without a verdict",
        *(f"not taken, on prompt {brief(prompt)}: {said}" for prompt, said in account["rejections"].items()),
    ]
    if account["position_bias"] is not None:
        lines.append(
            f"order decided {account['position_bias']:.1%} of {account['ordered']} pairs: {account['to_first']} for "
            f"the answer shown first, {account['to_second']} for the second"
        )
    if account["noise"] is not None:
        lines.append(f"asked the same again, it said otherwise in {account['noise']:.1%} of cases")
    return lines
