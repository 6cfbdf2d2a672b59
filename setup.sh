#!/bin/sh
# Make .venv with everything that this project needs; `make setup` runs it.
#
#   PYTHON   the interpreter, of version 3.11 or 3.12; by default the first that is found, or one from uv
#   TORCH    auto: PyTorch without CUDA where there is no NVIDIA GPU, if its package index answers (the default)
#            cpu: PyTorch without CUDA, if its package index answers; several GB less
#            default: what the usual package index has
set -eu
TORCH=${TORCH:-auto}
TORCH_CPU_INDEX=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}
ANSWER_S=3  # how long to wait for that index

fits() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null
}

make_venv() {
    for name in ${PYTHON:-python3.11 python3.12 python3}; do
        if command -v "$name" >/dev/null && fits "$name"; then
            "$name" -m venv .venv
            return
        fi
    done
    if [ -z "${PYTHON:-}" ] && command -v uv >/dev/null; then
        echo "No Python 3.11 or 3.12 here: uv makes .venv with 3.12." >&2
        uv venv --python 3.12 --seed .venv
        return
    fi
    echo "Error: Python: got ${PYTHON:-neither 3.11 nor 3.12}, expected Python 3.11 or 3.12." \
        "Install python3.12 and python3.12-venv, or uv (https://docs.astral.sh/uv/), or pass PYTHON=..." >&2
    exit 1
}

has_nvidia_gpu() {
    [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]  # the second one is the GPU of WSL
}

index_answers() {
    timeout "$ANSWER_S" .venv/bin/python -c '
import sys, urllib.request
urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=float(sys.argv[2])).read(1)
' "$TORCH_CPU_INDEX" "$ANSWER_S" 2>/dev/null
}

case $TORCH in
    auto | cpu | default) ;;
    *) echo "Error: TORCH: got '$TORCH', expected auto, cpu or default." >&2; exit 1 ;;
esac
make_venv
.venv/bin/python -m pip install --quiet --upgrade --constraint constraints.txt pip
set --  # the arguments for pip
if [ "$TORCH" = cpu ] || { [ "$TORCH" = auto ] && ! has_nvidia_gpu; }; then
    if index_answers; then
        echo "PyTorch without CUDA, from $TORCH_CPU_INDEX." >&2
        set -- --extra-index-url "$TORCH_CPU_INDEX"
    else
        echo "$TORCH_CPU_INDEX does not answer: PyTorch comes from the usual package index." >&2
    fi
fi
.venv/bin/python -m pip install "$@" --constraint constraints.txt --editable '.[dev]'
