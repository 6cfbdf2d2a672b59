"""Options that several commands share, and conversions from option texts to values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from alexnet_model.errors import UsageError
from alexnet_model.manifest import PRECISIONS, Precision

if TYPE_CHECKING:
    from alexnet_clients import Client, ServedModel

NETWORK = "The network"  # a group of options in the help
DEFAULT_REPOSITORY = Path("model_repository")
RepositoryOption = Annotated[
    Path, typer.Option("--repository", help="The Triton model repository.", show_default=True)
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="Name of an export in the repository.",
        metavar="NAME",
        show_default="its only export",
    ),
]
ArchOption = Annotated[
    str | None,
    typer.Option(
        "--arch",
        rich_help_panel=NETWORK,
        help="The network: alexnet, alexnet-bn, alexnet-lecture, alexnet-2012, lenet, or "
        "package.module:factory, such as torchvision.models:resnet18.",
        show_default="the checkpoint's, or alexnet",
    ),
]
ArchOptionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--arch-option",
        rich_help_panel=NETWORK,
        help="An argument of the network's factory, such as width=0.25.",
        metavar="KEY=VALUE",
    ),
]
StateDictKeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        rich_help_panel=NETWORK,
        help="The key of the state dict in the file of weights, such as model_ema.",
        show_default="the first that fits",
    ),
]
ImagesArgument = Annotated[
    list[str],
    typer.Argument(
        help="Files, folders, patterns ('images/**/*.jpg'), - for standard input, or sample:NAME for an "
        "image of this package: digit_3, digit_5, digit_8, china or flower.",
        metavar="IMAGE...",
    ),
]
TopOption = Annotated[
    int, typer.Option("--top", min=1, max=1000, help="Classes to show, most probable first.")
]
RecursiveOption = Annotated[bool, typer.Option("--recursive", "-r", help="Also search subfolders.")]
JsonLinesFlag = Annotated[bool, typer.Option("--json", help="Print JSON, one line per image.")]
CsvFlag = Annotated[bool, typer.Option("--csv", help="Print CSV, one row per image.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON to standard output instead of a table.")]


def architecture_options_from(texts: list[str]) -> dict[str, bool | int | float | str]:
    """Parse `width=0.25` to an argument of a network's factory: a bool, int or float if it is one, else text.

    Raises:
        UsageError: a text is no KEY=VALUE, or a key repeats.
    """
    options: dict[str, bool | int | float | str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier() or key in options:
            raise UsageError("--arch-option", got=repr(text), expected="KEY=VALUE, each KEY once")
        options[key] = _value_from(value)
    return options


def check_one_format(as_json: bool, as_csv: bool) -> None:
    """Refuse --json beside --csv.

    Raises:
        UsageError: both are given.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv", got="both", expected="one of them")


def names_from(texts: list[str]) -> tuple[str, ...]:
    """Split the values of a repeated option at commas: `a,b` and `c` to `a`, `b` and `c`."""
    return tuple(dict.fromkeys(name.strip() for text in texts for name in text.split(",")))


def _value_from(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def precisions_from(text: str | None) -> tuple[Precision, ...] | None:
    """Parse `fp32,int8` to precisions; None stays None.

    Raises:
        UsageError: a word is not a precision.
    """
    if text is None:
        return None
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in PRECISIONS]
    if unknown or not words:
        raise UsageError(
            "--precision",
            got=repr(unknown[0] if unknown else text),
            expected=f"some of {','.join(PRECISIONS)}",
        )
    return tuple(cast("Precision", word) for word in dict.fromkeys(words))


def model_chooser(
    model: str | None, precision: str | None, name: str | None
) -> Callable[[Client], ServedModel]:
    """Check the options that name a model, and return the function that reads it from a server.

    Args:
        model: The model's name; None means the one that fits the other two.
        precision: A precision; None means the server's default.
        name: The export's name; None means the only one that is served.

    Raises:
        UsageError: `model` is given beside another one, a name is empty or cannot be an export's, or the
            precision is unknown.
    """
    from alexnet_clients import choose_model, with_served_models
    from alexnet_model.errors import ModelNotFound
    from alexnet_model.model_names import check_name

    if model is not None:
        if precision is not None or name is not None:
            beside = "--precision" if name is None else "--name"
            raise UsageError(f"--model and {beside}", got="both", expected="one of them")
        if not model:
            raise UsageError("--model", got="no name", expected="one such as alexnet_fp32")

        def named(client: Client) -> ServedModel:
            try:
                return client.model(model)
            except ModelNotFound as error:
                raise with_served_models(error, client.transport, timeout_s=client.timeout_s) from error

        return named
    word = None if precision is None else precision.strip().lower()
    if word is not None and word not in PRECISIONS:
        raise UsageError("--precision", got=repr(precision), expected=" or ".join(PRECISIONS))
    if name is not None:
        check_name(name)
    return lambda client: choose_model(client, name=name, precision=word)
