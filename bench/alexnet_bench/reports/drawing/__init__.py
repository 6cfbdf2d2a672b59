"""Plots as SVG by hand: text stays text, colours follow the page's theme, and nothing has to be installed."""
