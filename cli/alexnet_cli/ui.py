"""`alexnet ui`: a web page on loopback that classifies images."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from .connecting import (
    DEFAULT_URL,
    CaOption,
    CertOption,
    Connection,
    HeaderOption,
    KeyOption,
    TimeoutOption,
    UrlsOption,
)


def ui_command(
    url: UrlsOption = DEFAULT_URL,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the export whose models to offer.", metavar="NAME", show_default="the only one"
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page, on loopback; 0 picks a free one.")
    ] = 7860,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Classes to show, most probable first.")] = 5,
    timeout_s: TimeoutOption = 10,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    header: HeaderOption = None,
) -> None:
    """Serve a web page that classifies the images dropped on it, until Ctrl-C.

    Prints the URL of the page. The server at --url classifies the images.

    Example: alexnet ui --url grpc://127.0.0.1:8001 --port 7860
    """
    from alexnet_clients import PageServer, choose_model
    from alexnet_model.model_names import export_of_model

    from .screen import err, note, say

    connection = Connection(url=url, timeout_s=timeout_s, ca=ca, cert=cert, key=key, headers=header)
    with ExitStack() as opened:
        client = opened.enter_context(connection.client())
        with err.status("Starting the page ..."):
            name = name or export_of_model(choose_model(client).name)
            page = opened.enter_context(PageServer(client, name=name, port=port, top=top))
        say(f"page     {page.url}")
        note("Stop with Ctrl-C.")
        try:
            page.run()
        except KeyboardInterrupt:
            note("Stopping ...")
