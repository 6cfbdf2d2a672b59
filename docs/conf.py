"""Sphinx's configuration of the documentation site; `make docs` builds it into build/site.

Sphinx reads the Markdown of the whole repository as it is, so a link that works on a code host works on the
site. The reference pages are written from the code before every build, into docs/reference/; git ignores it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType

import typer
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.matching import patfilter
from typer.cli import get_docs_for_click
from typer.core import MARKUP_MODE_KEY

from alexnet_cli.main import app as commands

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PACKAGES = ("model", "training", "export", "pipeline", "serving", "clients", "bench")

# By heading: pages in this order, as patterns; `**` matches slashes too. A pattern may match nothing. The
# last one takes the pages that no other matches.
NAVIGATION = {
    "Start": (
        *("docs/getting-started", "docs/export", "docs/training", "examples/README"),
        "docs/troubleshooting",
    ),
    "Serve": (
        *("docs/serving", "docs/repository", "model_repository/README", "docs/contract", "docs/clients"),
        *("docs/gpu", "docs/bulk", "docs/scale"),
    ),
    "Measure": ("docs/benchmarks", "docs/performance"),
    "Learn": ("docs/lecture", "docs/lecture/**"),
    "Reference": ("docs/reference/commands", "docs/reference/**"),
    "Decisions": ("docs/decisions/**",),
    "Project": ("docs/architecture", "docs/versioning", "CHANGELOG", "CONTRIBUTING", "**"),
}

project = "alexnet-serving"
copyright = "the authors of alexnet-serving"  # noqa: A001
release = version = installed_version("alexnet-serving")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/README.md", "model_repository/README.md"),
    "docs/**",
]
exclude_patterns = [".*", "build", "demo"]
myst_heading_anchors = 4
smartquotes = False  # two hyphens of an option would become a dash

autodoc_member_order = "bysource"
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"alexnet-serving {release}"
html_extra_path = ["_root"]  # index.html, which leads to docs/index.html
html_show_sphinx = False
html_copy_source = False
pygments_style = "default"
pygments_dark_style = "monokai"


def page_of_commands() -> str:
    """Return the page of all commands with their options, in Markdown."""
    command = typer.main.get_command(commands)
    context = typer.Context(command, obj={MARKUP_MODE_KEY: commands.rich_markup_mode})
    page = get_docs_for_click(obj=command, ctx=context, name="alexnet", title="Commands")
    page = re.sub(r"^Example: (.*)$", r"Example: `\1`", page, flags=re.MULTILINE)
    # Typer shortens the sentences in its lists of subcommands; the headings below are these lists already.
    return re.sub(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+\n", "", page)


def page_of_package(name: str) -> str:
    """Return the page of a package's public names, in reStructuredText."""
    package = import_module(name)
    parts = [f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n   :no-members:\n"]
    for public in sorted(package.__all__, key=str.lower):
        value = getattr(package, public)
        if inspect.isclass(value):
            parts.append(f".. autoclass:: {name}.{public}\n   :members:\n")
        elif inspect.isroutine(value):
            parts.append(f".. autofunction:: {name}.{public}\n")
        else:
            comment = "\n   ".join(comment_of(package, public))
            parts.append(f".. py:data:: {public}\n   :module: {name}\n\n   {rest_from_markdown(comment)}\n")
    return "\n".join(parts)


def comment_of(package: ModuleType, public: str) -> list[str]:
    """Return the `#:` comment of a constant or type, where it is defined; autodoc looks only in `package`.

    Raises:
        LookupError: it has none.
    """
    for file in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
        if re.search(rf"^{public}\b", file.read_text(), re.MULTILINE):
            comments = ModuleAnalyzer.for_file(file, file.stem).find_attr_docs()
            if ("", public) in comments:
                return comments["", public]
    raise LookupError(f"{package.__name__}.{public} has no comment that starts with #:")


def rest_from_markdown(text: str) -> str:
    """Return text with `code` in single backticks, as docstrings here have it, in reStructuredText's form."""
    return re.sub(r"(?<![`:\w])`([^`]+)`(?![`_\w])", r":py:obj:`\1`", text)


def write_reference(_: Sphinx) -> None:
    """Write the pages that come from the code. Sphinx reads only changed files again."""
    pages = {f"alexnet_{package}.rst": page_of_package(f"alexnet_{package}") for package in PACKAGES}
    pages["commands.md"] = page_of_commands()
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages.items():
        file = REFERENCE / name
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def translate_docstring(
    _app: Sphinx, _what: str, _name: str, _object: object, _: object, lines: list[str]
) -> None:
    """Let autodoc read a docstring's Markdown code, before napoleon looks for colons outside of code."""
    lines[:] = rest_from_markdown("\n".join(lines)).split("\n")


def toctrees(pages: set[str]) -> Iterator[str]:
    """Yield the navigation, one block for each heading."""
    left = set(pages)
    for caption, patterns in NAVIGATION.items():
        found: list[str] = []
        for pattern in patterns:
            matching = sorted(patfilter(left, pattern))
            found += matching
            left -= set(matching)
        entries = "\n".join(f"/{page}" for page in found)
        yield f"\n```{{toctree}}\n:caption: {caption}\n:hidden:\n\n{entries}\n```\n"


def edit_source(app: Sphinx, page: str, source: list[str]) -> None:
    """Append the navigation to the first page; elsewhere drop links to folders, which have no page."""
    if page == root_doc:
        source[0] += "".join(toctrees(set(app.env.found_docs) - {root_doc}))
    else:
        source[0] = re.sub(r"\[([^\]]+)\]\([^):]*/\)", r"\1", source[0])


def setup(app: Sphinx) -> None:
    """Register the functions above with Sphinx."""
    app.connect("builder-inited", write_reference)
    app.connect("source-read", edit_source)
    app.connect("autodoc-process-docstring", translate_docstring, priority=400)
