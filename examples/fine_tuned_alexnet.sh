#!/bin/sh
# Your fine-tuned AlexNet, from a file of weights to predictions.
set -eu

# Your part: class folders of images, and weights that a training program saved with
# torch.save({"epoch": 1, "state_dict": network.state_dict()}, "shapes.pth").
python draw_shapes.py shapes --images 100
python train_shapes.py alexnet shapes shapes.pth

# To ONNX in three precisions, each compared with PyTorch, and a model repository. The class names are those of the
# folders. An AlexNet of full width that was trained on torchvision's 224 pixels needs none of the last line's options.
alexnet export shapes.pth --calibration shapes --name shapes --repository model_repository \
    --arch-option width=0.125 --image-size 64 --resize 64 --max-batch 8
alexnet lint model_repository

# A real Triton server without Docker. Port 0 picks a free port; without these options it is 8001 for gRPC.
alexnet serve --with embedded --repository model_repository \
    --grpc-port 0 --http-port 0 --metrics-port 0 >server.txt &
server=$!
trap 'kill $server; wait $server || true' EXIT
until grep -q ^ready server.txt; do
    kill -0 $server
    sleep 0.2
done
alexnet classify shapes/*/00.png --name shapes --top 1 --url "$(awk '/^gRPC/ { print $2 }' server.txt)"
