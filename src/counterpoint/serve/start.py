"""What a server needs before it can start: an address of its own, and nobody who could reach it unasked."""

import socket
from contextlib import ExitStack

from counterpoint.serve.keys import Keys
from counterpoint.serve.settings import Settings
from counterpoint.types import CounterpointError


def check_reach(settings: Settings, keys: Keys) -> None:
    """Refuse an address that others can reach while there is no API key to ask them for, unless that is meant."""
    if not (settings.loopback or settings.open or keys.any()):
        raise CounterpointError(
            f"host {settings.host!r}: others can reach it, and there is no API key yet; make one with `counterpoint "
            "keys add NAME`, or let anybody ask with --open"
        )


def bind(host: str, port: int) -> socket.socket:
    """Take an address before minutes go into loading; nobody can connect until the server listens.

    Raises CounterpointError where it is taken, forbidden or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with ExitStack() as unless_bound:
            taken = unless_bound.enter_context(socket.socket(family, kind, protocol))
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
            unless_bound.pop_all()
    except OSError as error:
        raise CounterpointError(
            f"{host}:{port}: cannot listen there: {error.strerror}; name another --host or --port (0 takes a free one)"
        ) from None
    return taken


def address_of(taken: socket.socket) -> str:
    """The URL of a bound socket; of one that is bound everywhere, as this machine reaches it."""
    host, port = taken.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
