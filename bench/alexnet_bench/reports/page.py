"""Reports as one HTML file that opens offline and holds no script: the Markdown page in a template.

Everything that comes from a report is escaped by the Markdown page; the template also forbids scripts.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from alexnet_model.extras import needs

from ..schema import Report
from .files import check_one_page
from .markdown import Document, document_from_reports, escaped

_FOLDER = "plots"


def html_from_reports(reports: Sequence[Report]) -> str:
    """Return the page of reports of one machine, with all columns of their tables.

    Raises:
        UsageError: the reports do not belong on one page.
        ReportError: a histogram is broken.
        MissingExtra: markdown-it-py or matplotlib is not installed.
    """
    check_one_page(reports)
    title = ", ".join(dict.fromkeys(report.title for report in reports))
    document = document_from_reports(
        reports, introduction=f"# {escaped(title)}", folder=_FOLDER, every_column=True
    )
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(" ".join(title.split())), body=_body(document))


def _body(document: Document) -> str:
    """Render the Markdown; images become data URIs."""
    with needs("bench"):
        from markdown_it import MarkdownIt
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = markdown.parse(document.text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                svg = document.images[str(child.attrs["src"]).removeprefix(f"{_FOLDER}/")]
                child.attrs["src"] = f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
    return str(markdown.renderer.render(tokens, markdown.options, {}))
