"""Write docs/lecture.md from lecture/template.md and the JSON files of the experiments."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from alexnet_model.files import write_text_atomically
from plots import save
from section import Experiment, Section, Values, table_of

TEMPLATE = Path(__file__).with_name("template.md")


def write_page(experiments: Sequence[Experiment], results: Path, docs: Path, *, suffix: str = ".svg") -> None:
    """Write the page and its plots, which are in a folder beside it with the page's name.

    Args:
        experiments: in the order of the page. Those without results are left out.
        results: the folder of the JSON files.
        docs: the page.
        suffix: ".svg", or ".png" to look at the plots.
    """
    found = [
        (each, json.loads(path.read_text(encoding="utf-8")))
        for each in experiments
        if (path := results / f"{each.name}.json").exists()
    ]
    if not found:
        sys.exit(f"Error: {results}: got no results, expected *.json. Run python lecture/run.py first.")
    sections = [(each.name, each.section(values), values) for each, values in found]
    folder = docs.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for name, section, _ in sections:
        if section.plot is not None:
            save(section.plot, folder / f"{name}{suffix}")
    absent = [each.name for each in experiments if each.name not in {name for name, _, _ in sections}]
    write_text_atomically(docs, page_of(sections, folder.name, suffix, absent))


def page_of(
    sections: Sequence[tuple[str, Section, Values]],
    folder: str,
    suffix: str = ".svg",
    absent: Sequence[str] = (),
) -> str:
    """Return the page's text: the template with the verdicts, the sections and the runs in its places.

    `absent` names the experiments without results.
    """
    verdicts = [
        [f"[{section.title}](#{_anchor(number, section.title)})", section.verdict.lower()]
        for number, (_, section, _) in enumerate(sections, 1)
    ]
    runs = [
        [
            name,
            str(values.get("seeds", "none")).strip("[]"),
            f"{values['run']['seconds']:,.0f} s",
            f"{values['run']['cpu_seconds']:,.0f} s",
            f"{values['run']['load_before']:g}",
            values["run"]["date"][:16].replace("T", " "),
        ]
        for name, _, values in sections
    ]
    run = sections[0][2]["run"]
    parts = {
        "VERDICTS": table_of(["claim", "verdict"], verdicts),
        "SECTIONS": "\n\n".join(
            _section_text(number, name, section, folder, suffix)
            for number, (name, section, _) in enumerate(sections, 1)
        ),
        "ABSENT": _absent_text(absent),
        "RUNS": table_of(["experiment", "seeds", "time", "CPU time", "load before", "date (UTC)"], runs),
        "MACHINE": run["machine"],
        "VERSIONS": ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, value in parts.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _section_text(number: int, name: str, section: Section, folder: str, suffix: str) -> str:
    parts = [
        f"## {number}. {section.title}",
        _wrapped(f"**Claim.** {section.claim}"),
        _wrapped(section.explanation),
        section.table,
        f"![{section.plot_text}]({folder}/{name}{suffix})" if section.plot is not None else "",
        _wrapped(f"**{section.verdict}.** {section.reason}"),
        f"    python lecture/run.py --only {name}",
    ]
    return "\n\n".join(part for part in parts if part)


def _absent_text(names: Sequence[str]) -> str:
    if not names:
        return "All experiments have results on this page."
    return _wrapped(
        f"This page does not have all sections yet. Experiments without results: {', '.join(names)}. "
        f"They run with `python lecture/run.py --only {' '.join(names)}`."
    )


def _wrapped(text: str) -> str:
    return fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _anchor(number: int, title: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    kept = "".join(letter for letter in f"{number}. {title}".lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")
