#!/bin/sh
# A ResNet of your own module, my_network.py, from weights to a model repository.
set -eu

python draw_shapes.py shapes --images 100
python train_shapes.py resnet shapes resnet.pth
ls shapes >classes.txt # one name a line, in the order of the outputs

# --arch imports my_network.py of this folder and calls its function small_resnet.
alexnet export resnet.pth --arch my_network:small_resnet --classes classes.txt --evaluation shapes \
    --precision fp32,fp16 --image-size 64 --resize 64 --max-batch 8 \
    --name resnet --out build/resnet --repository resnet_repository
alexnet lint resnet_repository
