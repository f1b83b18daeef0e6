"""`counterpoint serve`."""

from typing import Annotated

import typer

from counterpoint.cli.app import BandFolder, Device, Dtype, Threads, app, load_band


@app.command()
def serve(
    band: BandFolder,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    threads: Threads = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Serve a band to OpenAI clients, a profile per request."""
    import uvicorn

    from counterpoint.serve.app import create_app
    from counterpoint.serve.settings import Settings

    settings = Settings(host=host, port=port)
    uvicorn.run(create_app(load_band(band, threads, device, dtype), settings), host=host, port=port)
