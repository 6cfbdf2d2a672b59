"""A web service that classifies uploaded images. FastAPI is in the [ui] extra, Triton in [embedded].

alexnet serve --with embedded --repository model_repository
uvicorn web_service:app --port 8080
curl --form image=@shapes/star/00.png http://127.0.0.1:8080/classify
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, UploadFile

from alexnet_clients import AsyncClient
from alexnet_model.decoding import MAX_ENCODED_BYTES
from alexnet_model.errors import AlexnetError, ImageError, Unreachable

TRITON_URL = os.environ.get("TRITON_URL", "grpc://127.0.0.1:8001")
MODEL = os.environ.get("MODEL", "shapes_fp32")


@asynccontextmanager
async def client_of_app(app: FastAPI) -> AsyncIterator[None]:
    """Share one client between all requests. It connects again by itself after the server was restarted."""
    client = AsyncClient(TRITON_URL, timeout_s=5)
    app.state.client = client
    yield
    await client.close()


app = FastAPI(lifespan=client_of_app)


@app.post("/classify")
async def classify(image: UploadFile, request: Request) -> dict[str, float]:
    """Return the probability of each of the three best classes."""
    client: AsyncClient = request.app.state.client
    content = await image.read(MAX_ENCODED_BYTES + 1)  # the client refuses what is larger
    try:
        (prediction,) = await client.classify(content, model=MODEL, top=3)
    except AlexnetError as error:
        raise http_error_from(error) from error
    if prediction.error is not None:
        raise http_error_from(prediction.error)
    return {found.label: found.probability for found in prediction.classes}


def http_error_from(error: AlexnetError) -> HTTPException:
    """Return 400 for an image that cannot be read, 503 while Triton is away, and 502 for its other errors."""
    codes = {ImageError: 400, Unreachable: 503}
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), 502)
    return HTTPException(code, detail=str(error))
