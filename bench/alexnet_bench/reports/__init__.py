"""Reports: JSON files, tables, plots and pages, and the comparison of two reports."""
