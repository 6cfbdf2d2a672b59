"""Who may open the page: this machine's browsers, while the command runs, and no page of another site."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias

from alexnet_model.decoding import MAX_ENCODED_BYTES
from alexnet_model.errors import PortTaken, ServerError, os_error_reason
from alexnet_model.extras import needs

from ..client import Client
from .examples import write_examples

LOOPBACK = "127.0.0.1"
HTTP_PORT = 80
# A browser keeps a connection open as long as it shows the page; it is not waited for.
_GOODBYE_S = 1
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class HostedPage:
    """The page on loopback, inside its `with`; afterwards neither its port nor an uploaded file is left.

    >>> with HostedPage(client) as page:  # doctest: +SKIP
    ...     print(page.url)
    ...     page.run()
    """

    def __init__(self, client: Client, *, port: int = 7860, top: int = 5) -> None:
        """`port` 0 takes a free one."""
        self._client = client
        self._port = port
        self._top = top
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        """Take the port, then make the page.

        Raises:
            PortTaken: something listens there already.
            ServerError: this user may not listen there.
            MissingExtra: Gradio is not installed.
            ClientError: the server does not answer, or has no model that can be shown.
        """
        with ExitStack() as opened:
            self._listener = opened.enter_context(_listener(self._port))
            self.port: int = self._listener.getsockname()[1]
            self.url = f"http://{LOOPBACK}:{self.port}"
            folder = opened.enter_context(_private_folder())
            self.blocks, app = _blocks_and_app(self._client, self.port, self._top, folder)
            self.app = OnlyFromHere(app, port=self.port)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def run(self) -> None:
        """Serve until a signal.

        Raises:
            KeyboardInterrupt: after everything has ended, if that signal was Ctrl-C.
        """
        with needs("ui"):
            import uvicorn

        config = uvicorn.Config(
            self.app,
            log_level="critical",  # what goes wrong is said on the page
            access_log=False,
            timeout_graceful_shutdown=_GOODBYE_S,
        )
        uvicorn.Server(config).run(sockets=[self._listener])


class OnlyFromHere:
    """Refuses what a page of another site sends, by its own name or by one that it made to mean loopback.

    A browser shows who asks: in `Origin`, and in `Host` the name that it looked up.
    """

    def __init__(self, app: AsgiApp, *, port: int) -> None:
        self._app = app
        suffix = "" if port == HTTP_PORT else f":{port}"  # as browsers write it
        self._hosts = {f"{name}{suffix}".encode() for name in (LOOPBACK, "localhost")}
        self._origins = {b"http://" + host for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_from_here(dict(scope["headers"])):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a socket that is not accepted is refused
        await send({"type": "http.response.start", "status": 403, "headers": []})
        await send({"type": "http.response.body", "body": b"Open this page by its own address."})

    def _is_from_here(self, headers: dict[bytes, bytes]) -> bool:
        origin = headers.get(b"origin")
        return headers.get(b"host") in self._hosts and (origin is None or origin in self._origins)


def _blocks_and_app(client: Client, port: int, top: int, folder: Path) -> tuple[Any, AsgiApp]:
    """Gradio's page, and the web application around it."""
    from .page import CSS, page_of, theme

    with needs("ui"):
        import fastapi
        import gradio as gr

    blocks = page_of(client, top=top, examples=write_examples(folder))
    app: AsgiApp = gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        blocks,
        path="/",
        server_name=LOOPBACK,
        server_port=port,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=MAX_ENCODED_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=CSS,
    )
    return blocks, app


@contextmanager
def _listener(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # As servers do, so that connections lately closed are not taken for a listener.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen()
        except OSError as error:
            raise _cannot_listen(port, error) from error
        yield listener


def _cannot_listen(port: int, error: OSError) -> ServerError:
    if error.errno == errno.EADDRINUSE:
        return PortTaken(
            f"port {port}",
            got="something listening on it already",
            expected="a free port",
            next_step="Stop that or name another port; 0 takes a free one.",
        )
    return ServerError(
        f"port {port}",
        got=os_error_reason(error),
        expected="a port to listen on",
        next_step="Name another port; 0 takes a free one.",
    )


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Where uploads lie, for this user only. Gradio takes it, and its silence, from the environment."""
    with tempfile.TemporaryDirectory(prefix="alexnet_ui_") as name:
        wanted = {
            "GRADIO_TEMP_DIR": name,
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "1",
        }
        before = {key: os.environ.get(key) for key in wanted}
        os.environ.update(wanted)
        try:
            yield Path(name)
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value
