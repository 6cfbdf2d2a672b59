"""From a module to predictions in Python. Run own_network.sh first, which makes the weights."""

from pathlib import Path

import torch

from alexnet_clients import Client
from alexnet_model import Contract
from alexnet_pipeline import ExportOptions, export_model
from alexnet_serving import EmbeddedServer
from my_network import small_resnet

network = small_resnet(num_classes=5)
network.load_state_dict(torch.load("resnet.pth", weights_only=True)["state_dict"])
options = ExportOptions(
    classes=("circle", "cross", "square", "star", "triangle"),
    contract=Contract(size=64, resize=64),  # how images are prepared; clients read it from the server
    precisions=("fp32",),
    evaluation="shapes",
    max_batch=8,
    name="shapes",
    out=Path("build/python_api"),
    repository=Path("python_api_repository"),
)
result = export_model(network, options)
with EmbeddedServer(result.repository) as server, Client(server.grpc_url) as client:
    for prediction in client.classify(sorted(Path("shapes").glob("*/00.png")), model="shapes_fp32"):
        print(prediction.image, prediction.best.label, f"{prediction.best.probability:.1%}")
