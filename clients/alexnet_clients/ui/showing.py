"""An answer in the page's words: HTML in which everything that came from outside is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from ..replies import Classification
from .asking import Asked


def confidences_from_classes(classes: Sequence[Classification]) -> dict[str, float]:
    """Probabilities by label. Two of ImageNet's classes may share one, and then have their number too."""
    count = Counter(found.label for found in classes)
    return {
        found.label if count[found.label] == 1 else f"{found.label} (class {found.index})": found.probability
        for found in classes
    }


def html_from_asked(asked: Asked) -> str:
    """Where the time went, as bars that begin where the one before ended, and what was sent to whom."""
    rows, begun_ms = [], 0.0
    for kind, words, took_ms in _parts(asked):
        rows.append(_row(kind, words, took_ms, begun_ms, asked.total_ms))
        begun_ms += took_ms
    rows.append(
        "<tr class='total'><th scope='row'>total</th><td class='bar'></td>"
        f"<td data-part='total'>{asked.total_ms:.1f} ms</td></tr>"
    )
    model = asked.model
    facts = {
        "sent": f"{asked.request_bytes:,} bytes",
        "precision": f"{model.precision.upper()}, computed in {model.computes_in}",
        "backend": model.backend,
    }
    listed = "".join(
        f"<div><dt>{escape(name)}</dt><dd data-fact='{name}'>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return (
        f"<section class='asked' data-model='{escape(model.name, quote=True)}'>"
        f"<h3>Where the time went</h3><table><tbody>{''.join(rows)}</tbody></table>"
        f"<p>{escape(_note(asked))}</p><dl>{listed}</dl></section>"
    )


def html_from_error(error: Exception) -> str:
    """The one line that says what is wrong and what to do."""
    return f"<p class='failed' role='alert'>{escape(str(error))}</p>"


def _parts(asked: Asked) -> list[tuple[str, str, float]]:
    """In the order in which an image passes them; the network is passed both ways, but drawn once."""
    parts = [] if asked.model.decodes else [("decode", "decode here", asked.decode_ms)]
    if asked.queue_ms is None or asked.compute_ms is None or asked.network_ms is None:
        return [*parts, ("network", "network and server", asked.total_ms - asked.decode_ms)]
    computed = "decode and compute" if asked.model.decodes else "compute"
    return [
        *parts,
        ("network", "network", asked.network_ms),
        ("queue", "queue", asked.queue_ms),
        ("compute", computed, asked.compute_ms),
    ]


def _note(asked: Asked) -> str:
    if asked.queue_ms is None:
        return "The server does not tell how long it queued and computed."
    if asked.counted > 1:
        return (
            f"Queue and compute are a mean of {asked.counted} requests: others asked too. "
            "Network is what is left."
        )
    return "Queue and compute are the server's own count; network is what is left."


def _row(kind: str, words: str, took_ms: float, begun_ms: float, total_ms: float) -> str:
    begun, took = (min(100.0, 100 * ms / total_ms) for ms in (begun_ms, took_ms))
    bar = f"<i class='{kind}' style='margin-left:{begun:.2f}%;width:{min(took, 100 - begun):.2f}%'></i>"
    return (
        f"<tr><th scope='row'>{escape(words)}</th><td class='bar'>{bar}</td>"
        f"<td data-part='{kind}'>{took_ms:.1f} ms</td></tr>"
    )
