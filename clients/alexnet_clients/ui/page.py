"""The page: an image in, its classes as bars, and where the time went. Needs the [ui] extra."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from alexnet_model.errors import AlexnetError
from alexnet_model.extras import needs
from alexnet_model.model_names import network_name

from ..client import Client
from ..served_model import ServedModel
from .inference import available_models, classify_with_timing
from .rendering import confidences_from_classes, html_from_error, html_from_timed

with needs("ui"):
    import gradio as gr

_MAX_QUEUED = 16  # one person uses the page
_DAY_S = 24 * 60 * 60  # older uploads are deleted; the others when the server of the page ends

CSS = """
.gradio-container { width: 100% !important; max-width: 1120px !important; margin: 0 auto !important; }
#title h1 { margin: 0; font-size: 1.6rem; }
#title p { margin: 0.2rem 0 0; }
#image img { width: 100%; height: 100%; object-fit: contain; }
#classes meter { height: 0.6rem; appearance: none; border-radius: 2px; }
#classes meter::-webkit-meter-bar { border: 0; background: none; }
#classes meter::-webkit-meter-optimum-value { background: none; }
.timing h3 { margin: 0 0 0.4rem; font-size: 1rem; }
.timing table { width: 100%; margin: 0; border-collapse: collapse; }
.timing :is(table, tbody, tr, th, td) { border: 0 !important; background: none !important; }
.timing th { padding: 0.2rem 0.8rem 0.2rem 0; text-align: left; font-weight: normal; white-space: nowrap; }
.timing td { padding: 0.2rem 0; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.timing td.bar { width: 100%; padding-right: 0.8rem; }
.timing td.bar i { display: block; height: 0.9rem; min-width: 2px; border-radius: 2px; }
.timing i.decode { background: #0d9488; }
.timing i.network { background: #94a3b8; }
.timing i.queue { background: #d97706; }
.timing i.compute { background: #2563eb; }
.timing tr.total :is(th, td) { border-top: 1px solid var(--border-color-primary) !important;
                              font-weight: 600; }
.timing p { margin: 0.3rem 0 1rem; font-size: 0.85rem; color: var(--block-label-text-color); }
.timing dl { display: grid; grid-template-columns: repeat(3, auto); gap: 0.5rem 1rem; margin: 0; }
.timing dt { font-size: 0.85rem; color: var(--block-label-text-color); }
.timing dd { margin: 0; overflow-wrap: anywhere; }
.failed { margin: 0 !important; padding: 0.8rem; border-left: 4px solid #dc2626; overflow-wrap: anywhere;
          background: var(--error-background-fill); }
@media (max-width: 600px) {
  .timing dl { grid-template-columns: 1fr; }
  #examples .gallery { gap: 6px; }
  #examples .gallery .container { width: 56px; height: 56px; }
}
"""


def theme() -> Any:
    """Gradio's theme with local fonts, so that the page loads nothing from other machines."""
    fonts = ["system-ui", "sans-serif"]
    return gr.themes.Default(primary_hue="blue", font=fonts, font_mono=fonts)


def build_page(client: Client, *, name: str = "alexnet", top: int = 5, examples: Sequence[Path] = ()) -> Any:
    """Gradio's Blocks for one server, whose models are read at once.

    Args:
        client: a client of the server.
        name: the name of the export whose models are offered.
        top: how many classes to show.
        examples: images that the page offers.

    Raises:
        ClientError: no reply, or the server has none of this project's models.
    """
    models = available_models(client, name)

    def classify(path: str | None, model: str) -> tuple[dict[str, float], str]:
        if path is None:
            return {}, ""
        try:
            encoded = Path(path).read_bytes()
            timed = classify_with_timing(client, model, encoded, name=Path(path).name, top=top)
        except (AlexnetError, OSError) as error:
            return {}, html_from_error(error)
        return confidences_from_classes(timed.classes), html_from_timed(timed)

    def reload_models(model: str) -> tuple[Any, Any]:
        """The server may have another export by now. A result that is shown already stays."""
        try:
            return _choice(available_models(client, name), model), gr.skip()
        except AlexnetError as error:
            return gr.skip(), html_from_error(error)

    with gr.Blocks(title="alexnet", analytics_enabled=False, delete_cache=(_DAY_S, _DAY_S)) as page:
        gr.HTML(
            f"<h1>alexnet</h1><p>Drop an image, see its classes. Server: {escape(str(client.url))}.</p>",
            elem_id="title",
        )
        with gr.Row():
            with gr.Column():
                image = gr.Image(
                    label="Image",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    buttons=[],
                    alt_text="The image that was classified",
                    height=320,
                    elem_id="image",
                )
                # Gradio would open the file and save some again; the contract is for the original file.
                image.preprocess = _path_from_upload
                model = _choice(models, network_name(name, "fp32"))
                if examples:
                    paths = [[str(path)] for path in examples]
                    gr.Examples(paths, image, preload=False, elem_id="examples")
            with gr.Column():
                classes = gr.Label(label="Classes", num_top_classes=top, elem_id="classes")
                words = gr.HTML(elem_id="words")
        gr.on(
            [image.change, model.input],
            classify,
            [image, model],
            [classes, words],
            trigger_mode="always_last",
            api_visibility="private",
        )
        page.load(reload_models, [model], [model, words], api_visibility="private")
    # One request at a time, so that none waits in the server's queue for another one of this page.
    return page.queue(api_open=False, max_size=_MAX_QUEUED, default_concurrency_limit=1)


def _choice(models: Sequence[ServedModel], preferred: str) -> Any:
    names = [served.name for served in models]
    choices = [
        (f"{served.name} (decodes on the server)" if served.decodes else served.name, served.name)
        for served in models
    ]
    value = preferred if preferred in names else names[0]
    return gr.Radio(choices, value=value, label="Model", elem_id="model")


def _path_from_upload(payload: Any) -> str | None:
    """The path of an upload or an example; Gradio has checked by now that it is one."""
    return None if payload is None else payload.path
