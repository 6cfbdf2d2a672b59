"""Host the page on loopback: for browsers on this machine, and not for pages of other sites."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from alexnet_model.decoding import MAX_ENCODED_BYTES
from alexnet_model.errors import PortTaken, ServerError, os_error_reason
from alexnet_model.extras import needs
from alexnet_model.files import temporary_folder
from alexnet_model.sample_images import samples_of_classes

from ..client import Client
from .guard import LOOPBACK, AsgiApp, BrowserGuard
from .inference import available_models

# A browser keeps a connection open as long as it shows the page; do not wait for it.
_SHUTDOWN_S = 1


class PageServer:
    """The page on loopback, inside `with`. After it the port is free and uploaded files are deleted.

    >>> with PageServer(client) as server:  # doctest: +SKIP
    ...     print(server.url)
    ...     server.run()

    Args:
        client: a client of the server that classifies.
        name: the name of the export whose models the page offers.
        port: the page's port; 0 takes a free one.
        top: how many classes to show.
    """

    def __init__(self, client: Client, *, name: str = "alexnet", port: int = 7860, top: int = 5) -> None:
        self._client = client
        self._name = name
        self._port = port
        self._top = top
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        """Open the port, then build the page.

        Raises:
            PortTaken: another process listens there.
            ServerError: this user may not listen there.
            MissingExtra: Gradio is not installed.
            ClientError: no reply, or the server has none of this project's models.
        """
        with ExitStack() as opened:
            self._listener = opened.enter_context(_listener(self._port))
            self.port: int = self._listener.getsockname()[1]
            self.url = f"http://{LOOPBACK}:{self.port}"
            folder = opened.enter_context(_private_folder())
            self.blocks, app = _blocks_and_app(self._client, self._name, self.port, self._top, folder)
            self.app = BrowserGuard(app, port=self.port, uploads=folder)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def run(self) -> None:
        """Serve until a signal.

        Raises:
            KeyboardInterrupt: after the shutdown, if the signal was Ctrl-C.
        """
        with needs("ui"):
            import uvicorn

        config = uvicorn.Config(
            self.app,
            log_level="critical",  # errors are shown on the page
            access_log=False,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
        uvicorn.Server(config).run(sockets=[self._listener])


def _blocks_and_app(client: Client, name: str, port: int, top: int, folder: Path) -> tuple[Any, AsgiApp]:
    """Gradio's page, and the web application around it."""
    from .page import CSS, build_page, theme

    with needs("ui"):
        import fastapi
        import gradio as gr

    examples = write_examples(folder, available_models(client, name)[0].labels)
    blocks = build_page(client, name=name, top=top, examples=examples)
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


def write_examples(folder: Path, class_names: Sequence[str]) -> list[Path]:
    """Copy the sample images that show one of the classes; none if there are no such images.

    Args:
        folder: an existing folder.
        class_names: the classes of the served model.

    Raises:
        OSError: the folder cannot be written.
    """
    return [Path(shutil.copy(sample, folder)) for sample in samples_of_classes(class_names)]


@contextmanager
def _listener(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # So that recently closed connections do not block the port.
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
            next_step="Stop that process or use another port; 0 picks a free one.",
        )
    return ServerError(
        f"port {port}",
        got=os_error_reason(error),
        expected="a port to listen on",
        next_step="Use another port; 0 picks a free one.",
    )


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for uploads, for this user only. Gradio is configured by environment variables."""
    with temporary_folder("alexnet_ui_") as folder:
        variables = {
            "GRADIO_TEMP_DIR": str(folder),
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "1",
        }
        before = {key: os.environ.get(key) for key in variables}
        os.environ.update(variables)
        try:
            yield folder
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value
