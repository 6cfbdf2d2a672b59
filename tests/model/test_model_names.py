"""Names of exports and of their models."""

from __future__ import annotations

import pytest

from alexnet_model.architectures import ARCHITECTURES
from alexnet_model.errors import UsageError
from alexnet_model.model_names import (
    MAX_NAME,
    check_name,
    default_name,
    export_of_model,
    is_decoder,
    models_of_export,
)


@pytest.mark.parametrize("name", ["alexnet", "a", "7", "flowers-2", "my_int8_flowers", "x" * MAX_NAME])
def test_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "Flowers",
            "_flowers",
            "-flowers",
            "a b",
            "a.b",
            "a/b",
            "../a",
            "é",
            "a\n",
            "x" * (MAX_NAME + 1),
        ),
        *("flowers_fp32", "flowers_fp16", "flowers_int8", "flowers_decode"),
    ],
)
def test_no_names(name: str) -> None:
    with pytest.raises(UsageError, match="name: got") as caught:
        check_name(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("alexnet", "alexnet"),
        ("alexnet-2012", "alexnet_2012"),
        ("torchvision.models:resnet18", "resnet18"),
        ("timm:vit_base.patch16", "vit_base_patch16"),
        ("nets:_Small_Net", "small_net"),
        ("nets:net_int8", "net_int8_model"),
        ("nets:___", "model"),
        ("nets:" + "n" * 99, "n" * 58),
        ("nets:Ünet", "net"),
    ],
)
def test_the_default_is_the_factory(architecture: str, name: str) -> None:
    assert default_name(architecture) == name
    check_name(name)


def test_every_architecture_has_a_valid_default_of_its_own() -> None:
    names = [default_name(architecture) for architecture in ARCHITECTURES]
    assert len(set(names)) == len(names)
    for name in names:
        check_name(name)


def test_models_of_two_exports_never_share_a_name() -> None:
    assert models_of_export("a") == {"a", "a_decode", "a_fp32", "a_fp16", "a_int8"}
    assert not models_of_export("a") & models_of_export("a_b")
    for name in ("a", "a_b"):
        assert {export_of_model(model) for model in models_of_export(name)} == {name}
    assert [model for model in models_of_export("a") if is_decoder(model)] == ["a_decode"]
