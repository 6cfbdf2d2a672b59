"""Choose one of the models that a server serves, for a caller who names none."""

from __future__ import annotations

from alexnet_model.errors import ClientError, ContractMismatch, ModelNotFound
from alexnet_model.model_names import PRECISIONS, Precision, export_of_model, is_decoder, network_name

from .client import Client
from .served_model import ServedModel
from .transports.error_rules import STATISTICS_REFUSED
from .transports.transport import Transport

DEFAULT_NAME = "alexnet"  # of an export


def choose_model(
    client: Client, *, name: str | None = None, precision: Precision | None = None
) -> ServedModel:
    """Return the served model that takes prepared images, if the name and precision leave only one export.

    Of several precisions it is the one that the server declares as the default of its export, else the most
    precise one.

    Args:
        client: a client of the server.
        name: the export's name; None: any, or alexnet if the server does not report its models.
        precision: fp32, fp16 or int8; None: any.

    Raises:
        ModelNotFound: no such model is served, or models of several exports are; the message lists them.
        ContractMismatch: this version cannot use the contract of the only such model.
        ClientError: no reply.
    """
    if name is not None and precision is not None:
        return client.model(network_name(name, precision))
    try:
        served = client.model_names()
    except STATISTICS_REFUSED:
        return client.model(network_name(name or DEFAULT_NAME, precision or PRECISIONS[0]))
    usable: list[ServedModel] = []
    mismatch: ContractMismatch | None = None
    for model in served:
        if is_decoder(model) or name not in (None, export_of_model(model)):
            continue
        try:
            found = client.model(model)
        except ContractMismatch as error:  # a model of another project, or of another version
            mismatch = mismatch or error
            continue
        if not found.decodes and precision in (None, found.precision):
            usable.append(found)
    exports = {export_of_model(model.name) for model in usable}
    if len(exports) != 1:
        if mismatch is not None and not usable:
            raise mismatch
        raise _no_single_model(client, served, usable, name=name, precision=precision)
    return min(usable, key=lambda model: (not model.is_default, _rank(model.precision)))


def with_served_models(error: ModelNotFound, transport: Transport, *, timeout_s: float) -> ModelNotFound:
    """Return the error with the names of the server's models, or as it is if the server does not report them.

    Args:
        error: what the server replied to a request for a model.
        transport: a connection to the server.
        timeout_s: deadline of the request for the names, seconds.
    """
    try:
        names = transport.model_names(timeout_s=timeout_s).result()
    except ClientError:
        return error
    served = [name for name in names if not is_decoder(name)]
    if not served:
        return error
    return ModelNotFound(error.subject, got=error.got, expected=f"one of {', '.join(served)}")


def _rank(precision: str) -> int:
    return [*PRECISIONS, precision].index(precision)


def _no_single_model(
    client: Client,
    served: tuple[str, ...],
    usable: list[ServedModel],
    *,
    name: str | None,
    precision: str | None,
) -> ModelNotFound:
    listed = [model.name for model in usable] or [model for model in served if not is_decoder(model)]
    wanted = " ".join(word for word in (precision and precision.upper(), name and f"of {name}") if word)
    return ModelNotFound(
        str(client.url),
        got=f"the models {', '.join(listed)}" if listed else "a server without models",
        expected=f"models of one export{f', {wanted}' if wanted else ''}",
        next_step="Pass --model with one of them." if listed else "Serve a repository: alexnet serve.",
    )
