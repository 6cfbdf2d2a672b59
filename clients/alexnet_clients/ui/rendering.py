"""Results and errors as HTML. Everything that came from outside is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from ..predictions import Classification
from .inference import TimedClassification


def confidences_from_classes(classes: Sequence[Classification]) -> dict[str, float]:
    """Probabilities by label. Labels that two classes share, as in ImageNet, get the class's number."""
    count = Counter(found.label for found in classes)
    return {
        found.label if count[found.label] == 1 else f"{found.label} (class {found.index})": found.probability
        for found in classes
    }


def html_from_timed(timed: TimedClassification) -> str:
    """Where the time went, as bars that start where the previous one ended, and facts of the request."""
    parts = [] if timed.model.decodes else [("decode", "decode here", timed.decode_ms)]
    if timed.queue_ms is None or timed.compute_ms is None or timed.network_ms is None:
        parts.append(("network", "network and server", timed.total_ms - timed.decode_ms))
        note = "The server does not report how long it queued and computed."
    else:
        computed = "decode and compute" if timed.model.decodes else "compute"
        # In the order in which an image passes them; the network, which it passes both ways, is drawn once.
        parts += [
            ("network", "network", timed.network_ms),
            ("queue", "queue", timed.queue_ms),
            ("compute", computed, timed.compute_ms),
        ]
        note = "Queue and compute are the server's own count; network is the rest."
        if timed.counted > 1:
            note = (
                f"Queue and compute are a mean of {timed.counted} requests, because the server also "
                "served others. Network is the rest."
            )
    rows, start_ms = [], 0.0
    for kind, words, took_ms in parts:
        rows.append(_row(kind, words, took_ms, start_ms, timed.total_ms))
        start_ms += took_ms
    rows.append(
        "<tr class='total'><th scope='row'>total</th><td class='bar'></td>"
        f"<td data-part='total'>{timed.total_ms:.1f} ms</td></tr>"
    )
    model = timed.model
    facts = {
        "sent": f"{timed.request_bytes:,} bytes",
        "precision": f"{model.precision.upper()}, computed in {model.computes_in}",
        "backend": model.backend,
    }
    listed = "".join(
        f"<div><dt>{escape(name)}</dt><dd data-fact='{name}'>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return (
        f"<section class='timing' data-model='{escape(model.name, quote=True)}'>"
        f"<h3>Where the time went</h3><table><tbody>{''.join(rows)}</tbody></table>"
        f"<p>{escape(note)}</p><dl>{listed}</dl></section>"
    )


def html_from_error(error: Exception) -> str:
    """The error's message: what is wrong and what to do."""
    return f"<p class='failed' role='alert'>{escape(str(error))}</p>"


def _row(kind: str, words: str, took_ms: float, start_ms: float, total_ms: float) -> str:
    start, width = (min(100.0, 100 * ms / total_ms) for ms in (start_ms, took_ms))
    bar = f"<i class='{kind}' style='margin-left:{start:.2f}%;width:{min(width, 100 - start):.2f}%'></i>"
    return (
        f"<tr><th scope='row'>{escape(words)}</th><td class='bar'>{bar}</td>"
        f"<td data-part='{kind}'>{took_ms:.1f} ms</td></tr>"
    )
