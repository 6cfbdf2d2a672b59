"""The model that a client uses if its caller names none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from alexnet_clients import Client, FakeTransport, ModelConfig, choose_model, with_served_models
from alexnet_model.errors import BadRequest, ContractMismatch, ModelNotFound, NotReady


class Served(FakeTransport):
    """Serves models with parameters of their own.

    Args:
        default: the model that the server declares as the default.
        foreign: models that this project did not write.
    """

    def __init__(self, *models: str, default: str = "", foreign: tuple[str, ...] = ()) -> None:
        super().__init__(models=(*models, *foreign))
        self.default = default
        self.foreign = foreign

    def _config(self, model: str) -> ModelConfig:
        config = super()._config(model)
        if model in self.foreign:
            return replace(config, parameters={})
        return replace(
            config, parameters={**config.parameters, "default": str(model == self.default).lower()}
        )


def chosen(served: FakeTransport, **options: Any) -> str:
    with Client("grpc://host", transport=served) as client:
        return choose_model(client, **options).name


def test_the_precision_that_the_server_declares_as_default() -> None:
    models = ("alexnet", "alexnet_decode", "alexnet_fp16", "alexnet_fp32", "alexnet_int8")
    assert chosen(Served(*models, default="alexnet_fp16")) == "alexnet_fp16"
    assert chosen(Served(*models)) == "alexnet_fp32", "else the most precise one"
    assert chosen(Served(*models, default="alexnet_fp16"), precision="int8") == "alexnet_int8"


def test_models_of_other_projects_are_passed_over() -> None:
    assert chosen(Served("flowers_int8", foreign=("resnet", "yolo_fp32"))) == "flowers_int8"
    with pytest.raises(ContractMismatch):
        chosen(Served(foreign=("resnet",)))


def test_several_exports_need_a_name() -> None:
    served = ("dogs_fp32", "flowers_fp32", "flowers_int8")
    with pytest.raises(ModelNotFound, match="got the models dogs_fp32, flowers_fp32, flowers_int8"):
        chosen(Served(*served))
    assert chosen(Served(*served), precision="int8") == "flowers_int8"
    assert chosen(Served(*served), name="dogs") == "dogs_fp32"
    with pytest.raises(ModelNotFound, match="expected models of one export, of cats"):
        chosen(Served(*served), name="cats")


def test_a_server_without_models() -> None:
    with pytest.raises(ModelNotFound, match="a server without models"):
        chosen(Served())


def test_a_server_that_does_not_report_its_models_has_the_usual_one() -> None:
    served = Served("alexnet_fp32", "dogs_int8")
    with Client("grpc://host", transport=served) as client:
        served.failures.append(BadRequest("host", got="a restricted protocol"))
        assert choose_model(client).name == "alexnet_fp32"
        assert choose_model(client, name="dogs", precision="int8").name == "dogs_int8"
        served.failures.append(NotReady("host", got="a server that is stopping"))
        with pytest.raises(NotReady):
            choose_model(client)


def test_an_unknown_model_is_answered_with_the_names_of_those_served() -> None:
    error = ModelNotFound("grpc://host resnet", got="unknown model", next_step="Check the model's name.")
    served = Served("alexnet", "alexnet_decode", "alexnet_fp32")
    assert str(with_served_models(error, served, timeout_s=1)) == (
        "grpc://host resnet: got unknown model, expected one of alexnet, alexnet_fp32"
    )
    served.failures.append(BadRequest("grpc://host", got="statistics are not enabled"))
    assert with_served_models(error, served, timeout_s=1) is error
    assert with_served_models(error, Served(), timeout_s=1) is error
