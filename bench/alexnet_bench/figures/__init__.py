"""Figures from measurements: intervals, percentiles and verdicts. Nothing here measures."""
