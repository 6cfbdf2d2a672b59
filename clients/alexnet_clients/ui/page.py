"""The page: an image in, its classes as bars, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from alexnet_model.errors import AlexnetError
from alexnet_model.extras import needs

from ..client import Client
from ..core import DEFAULT_MODEL
from ..served_model import ServedModel
from .asking import ask, offered_models
from .showing import confidences_from_classes, html_from_asked, html_from_error

with needs("ui"):
    import gradio as gr

# One person looks at a page: more questions than these are not theirs.
_MOST_WAITING = 16
_DAY_S = 24 * 60 * 60  # after which an upload is deleted; the others are when the page is closed
Answer = tuple[dict[str, float], str]

CSS = """
.gradio-container { width: 100% !important; max-width: 1120px !important; margin: 0 auto !important; }
#title h1 { margin: 0; font-size: 1.6rem; }
#title p { margin: 0.2rem 0 0; }
#image img { width: 100%; height: 100%; object-fit: contain; }
#classes meter { height: 0.6rem; appearance: none; border-radius: 2px; }
#classes meter::-webkit-meter-bar { border: 0; background: none; }
#classes meter::-webkit-meter-optimum-value { background: none; }
.asked h3 { margin: 0 0 0.4rem; font-size: 1rem; }
.asked table { width: 100%; margin: 0; border-collapse: collapse; }
.asked :is(table, tbody, tr, th, td) { border: 0 !important; background: none !important; }
.asked th { padding: 0.2rem 0.8rem 0.2rem 0; text-align: left; font-weight: normal; white-space: nowrap; }
.asked td { padding: 0.2rem 0; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.asked td.bar { width: 100%; padding-right: 0.8rem; }
.asked td.bar i { display: block; height: 0.9rem; min-width: 2px; border-radius: 2px; }
.asked i.decode { background: #0d9488; }
.asked i.network { background: #94a3b8; }
.asked i.queue { background: #d97706; }
.asked i.compute { background: #2563eb; }
.asked tr.total :is(th, td) { border-top: 1px solid var(--border-color-primary) !important;
                              font-weight: 600; }
.asked p { margin: 0.3rem 0 1rem; font-size: 0.85rem; color: var(--block-label-text-color); }
.asked dl { display: grid; grid-template-columns: repeat(3, auto); gap: 0.5rem 1rem; margin: 0; }
.asked dt { font-size: 0.85rem; color: var(--block-label-text-color); }
.asked dd { margin: 0; overflow-wrap: anywhere; }
.failed { margin: 0 !important; padding: 0.8rem; border-left: 4px solid #dc2626; overflow-wrap: anywhere;
          background: var(--error-background-fill); }
@media (max-width: 600px) {
  .asked dl { grid-template-columns: 1fr; }
  #examples .gallery { gap: 6px; }
  #examples .gallery .container { width: 56px; height: 56px; }
}
"""


def theme() -> Any:
    """The machine's own fonts: the page must need no other machine."""
    fonts = ["system-ui", "sans-serif"]
    return gr.themes.Default(primary_hue="blue", font=fonts, font_mono=fonts)


def page_of(client: Client, *, top: int = 5, examples: Sequence[Path] = ()) -> Any:
    """Gradio's Blocks for one server, which is asked at once what it has.

    Raises:
        ClientError: it does not answer, or has no model that can be shown.
    """
    models = offered_models(client)

    def answer(path: str | None, model: str) -> Answer:
        if path is None:
            return {}, ""
        try:
            encoded = Path(path).read_bytes()
            asked = ask(client, model, encoded, name=Path(path).name, top=top)
        except (AlexnetError, OSError) as error:
            return {}, html_from_error(error)
        return confidences_from_classes(asked.classes), html_from_asked(asked)

    def look_again(model: str) -> tuple[Any, Any]:
        """Another export may be served by now. An image may be answered already, whose words stay."""
        try:
            return _choice(offered_models(client), model), gr.skip()
        except AlexnetError as error:
            return gr.skip(), html_from_error(error)

    with gr.Blocks(title="alexnet", analytics_enabled=False, delete_cache=(_DAY_S, _DAY_S)) as page:
        gr.HTML(
            f"<h1>alexnet</h1><p>Drop an image, see its classes. Asks {escape(str(client.url))}.</p>",
            elem_id="title",
        )
        with gr.Row():
            with gr.Column():
                image = gr.Image(
                    label="Image",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    buttons=[],
                    alt_text="The image that was asked about",
                    height=320,
                    elem_id="image",
                )
                # Gradio would open the file, and write some anew; the contract is for the file as it is.
                image.preprocess = _path_from_upload
                model = _choice(models, DEFAULT_MODEL)
                if examples:
                    paths = [[str(path)] for path in examples]
                    gr.Examples(paths, image, preload=False, elem_id="examples")
            with gr.Column():
                classes = gr.Label(label="Classes", num_top_classes=top, elem_id="classes")
                words = gr.HTML(elem_id="words")
        gr.on(
            [image.change, model.input],
            answer,
            [image, model],
            [classes, words],
            trigger_mode="always_last",
            api_visibility="private",
        )
        page.load(look_again, [model], [model, words], api_visibility="private")
    # One question at a time, so that none waits in the server's queue for another of this page.
    return page.queue(api_open=False, max_size=_MOST_WAITING, default_concurrency_limit=1)


def _choice(models: Sequence[ServedModel], wanted: str) -> Any:
    names = [served.name for served in models]
    choices = [(_words(served), served.name) for served in models]
    value = wanted if wanted in names else names[0]
    return gr.Radio(choices, value=value, label="Model", elem_id="model")


def _words(served: ServedModel) -> str:
    return f"{served.name} (decodes on the server)" if served.decodes else served.name


def _path_from_upload(payload: Any) -> str | None:
    """Gradio has made sure by now that it is a file that was uploaded, or an example."""
    return None if payload is None else payload.path
