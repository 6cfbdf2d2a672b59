from __future__ import annotations

from alexnet_bench.figures.verdicts import Reason
from alexnet_bench.reports.markdown import markdown_from_reports
from alexnet_bench.reports.sheets import sheets_of

from .reports_for_tests import report


def test_every_table_of_a_report_is_there_with_its_rows() -> None:
    whole = report()
    text = markdown_from_reports([whole])
    sheets = list(sheets_of(whole))
    assert len(sheets) >= 5
    for sheet in sheets:
        assert f"### {sheet.title}" in text
        for line in (line for group in sheet.groups for line in group.lines):
            assert line.cells[0].text.replace("|", "\\|").replace("<", "&lt;") in text
    assert whole.environment.machine in text
    assert "**VALID**" in text


def test_a_run_that_is_not_to_be_believed_says_why() -> None:
    reason = Reason(rule="machine busy", found="it went down", advice="End what else runs")
    text = markdown_from_reports([report(reasons=(reason,))])
    assert "**INVALID**" in text
    assert "- machine busy: it went down. End what else runs" in text


def test_no_name_can_break_the_page() -> None:
    reason = Reason(rule="errors", found="a|b<script>\nc", advice="none")
    text = markdown_from_reports([report(title="x<script>\n# y", reasons=(reason,))])
    assert "<script" not in text
    assert "\n# y" not in text
    assert "a\\|b&lt;script> c" in text
