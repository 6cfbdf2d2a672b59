from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_cli.main import run


def test_a_wrong_option_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--epochs", "0", "--out", str(tmp_path / "out.safetensors")]) == 2
    assert "epochs: got 0, expected 1 to 100,000" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
