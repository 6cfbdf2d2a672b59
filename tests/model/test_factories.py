"""Networks by `package.module:factory`: what is imported and called, and each error in one line."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from alexnet_model.architectures import build, expected_weights, takes_option
from alexnet_model.errors import UsageError

SOURCE = """
    import torch
    from torch import nn

    class Net(nn.Sequential):
        def __init__(self, num_classes=10, depth=1, *, act="relu", bias=True):
            layers = [nn.Linear(4, 4, bias=bias) for _ in range(depth)]
            super().__init__(*layers, nn.Linear(4, num_classes))
            self.given = (depth, act, bias)

    class Family:
        @staticmethod
        def small(classes):
            return Net(classes)

    def by_keywords(**arguments):
        return Net(**arguments)

    def fixed():
        return Net(7)

    def needs_depth(num_classes, depth):
        return Net(num_classes, depth)

    def raises(num_classes):
        raise ValueError("too many classes: " + str(num_classes))

    def exits(num_classes):
        raise SystemExit(3)

    def a_dict(num_classes):
        return {"model": Net()}

    def lazy(num_classes):
        return nn.LazyLinear(num_classes)

    def reads_values(num_classes):
        rates = [float(rate) for rate in torch.linspace(0, 1, 3)]
        return Net(num_classes, depth=len(rates))

    def imports_late(num_classes):
        import beside
        return beside.net(num_classes)

    module = Net()
    number = 3
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Write modules to the current folder, and forget them after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(**sources: str) -> None:
        for name, source in sources.items():
            monkeypatch.delitem(sys.modules, name, raising=False)
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))

    yield write
    for name in ("nets", "beside", "broken"):
        sys.modules.pop(name, None)


@pytest.fixture
def nets(written: Callable[..., None]) -> None:
    written(nets=SOURCE, beside="from nets import Net\n\ndef net(classes):\n    return Net(classes)\n")


def refusal(name: str, **options: bool | float | str) -> str:
    with pytest.raises(UsageError) as refused:
        build(name, 5, **options)
    line = str(refused.value)
    assert line.startswith(f"architecture {name}: got ")
    assert "\n" not in line
    return line


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize("name", ["Net", "Family.small", "by_keywords", "reads_values", "imports_late"])
def test_a_factory_of_the_current_folder_gets_the_number_of_classes(name: str) -> None:
    before = list(sys.path)
    network = build(f"nets:{name}", 5)
    assert list(network.state_dict().values())[-1].shape == (5,)
    assert sys.path == before


@pytest.mark.usefixtures("nets")
def test_a_factory_gets_its_options() -> None:
    assert build("nets:Net", 5, depth=2, act="gelu", bias=False).given == (2, "gelu", False)
    assert build("nets:by_keywords", 5, depth=2, act="gelu").given == (2, "gelu", True)
    assert takes_option("nets:Net", "depth")
    assert not takes_option("nets:Net", "width")
    assert not takes_option("nets:by_keywords", "depth")


@pytest.mark.usefixtures("nets")
def test_a_factory_without_an_argument_for_the_classes_is_called_without() -> None:
    assert list(build("nets:fixed", 5).state_dict().values())[-1].shape == (7,)


@pytest.mark.usefixtures("nets")
def test_shapes_are_read_without_memory_where_the_factory_allows_it() -> None:
    generator = torch.get_rng_state()
    assert {value.device.type for value in expected_weights("nets:Net", 5).values()} == {"meta"}
    assert {value.device.type for value in expected_weights("nets:reads_values", 5).values()} <= {
        "cpu",
        "meta",
    }
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (":Net", "got such a name, expected package.module:factory"),
        ("nets:", "got such a name, expected package.module:factory"),
        (
            "nowhere:Net",
            "got no module nowhere, expected a module of an installed package, or in the current",
        ),
        ("nets.deeper:Net", "got no module nets.deeper"),
        ("nets:Nett", "got no 'Nett' in nets"),
        ("nets:Nett", "Did you mean nets:Net?"),
        ("nets:Family.large", "got no 'Family.large' in nets"),
        ("nets:number", "got an object of type int, expected a function or class"),
        ("nets:module", "got an object of type Net, expected a function or class"),
        ("nets:needs_depth", "got no value for its argument 'depth'"),
        ("nets:needs_depth", "Add --arch-option depth=VALUE."),
        ("nets:raises", "got ValueError: too many classes: 5 (nets.py:"),
        (
            "nets:raises",
            ': raise ValueError("too many classes: " + str(num_classes))), expected a network from rais',
        ),
        ("nets:exits", "got SystemExit: 3"),
        ("nets:a_dict", "got an object of type dict, expected a torch.nn.Module"),
        ("nets:lazy", "got lazy layers"),
    ],
)
def test_a_factory_that_cannot_be_used_is_one_line(factory: str, words: str) -> None:
    assert words in refusal(factory)


@pytest.mark.usefixtures("nets")
def test_options_that_a_factory_does_not_have_are_refused() -> None:
    line = refusal("nets:Net", width=2)
    assert "got the option 'width', expected one of its arguments: depth, act, bias" in line
    assert "it has none" in refusal("nets:fixed", depth=2)
    assert "got TypeError: " in refusal("nets:by_keywords", width=2)
    assert "got the option 'depth', expected one of its arguments: width" in refusal("alexnet", depth=2)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "import not_installed_here",
            "got ModuleNotFoundError: No module named 'not_installed_here' (broken.py:1",
        ),
        ("def net(:\n", "got SyntaxError: "),
        ("1 / 0", "got ZeroDivisionError: division by zero (broken.py:1: 1 / 0), expected to import broken"),
        ("raise SystemExit(2)", "got SystemExit: 2"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(
    source: str, words: str, written: Callable[..., None]
) -> None:
    written(broken=source)
    assert words in refusal("broken:net")


def test_torchvision_and_timm_go_the_same_way(
    written: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins that have the signatures of the real ones: torchvision does not import everywhere."""
    written(nets=SOURCE)
    build("nets:Net", 2)
    net = sys.modules["nets"].Net

    def resnet18(*, weights: object = None, progress: bool = True, **kwargs: object) -> object:
        assert weights is None
        return net(**kwargs)

    def create_model(model_name: str, pretrained: bool = False, **kwargs: object) -> object:
        assert not pretrained
        if model_name != "resnet18.a1_in1k":
            raise RuntimeError(f"Unknown model ({model_name})")
        return net(**kwargs)

    models, timm = ModuleType("torchvision.models"), ModuleType("timm")
    models.resnet18 = resnet18  # type: ignore[attr-defined]
    timm.create_model = create_model  # type: ignore[attr-defined]
    for module in (ModuleType("torchvision"), models, timm):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("torchvision.models:resnet18", "timm:resnet18.a1_in1k"):
        network: Any = build(name, 5, depth=2)
        assert (network.given[0], list(network.state_dict().values())[-1].shape) == (2, (5,))
    assert "got RuntimeError: Unknown model (resnet19)" in refusal("timm:resnet19")


def test_timm_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "no module timm" in refusal("timm:resnet18")
