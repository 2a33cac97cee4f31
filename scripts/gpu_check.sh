#!/usr/bin/env bash
# What only a GPU can show: torch and ONNX Runtime on CUDA, TensorRT and TensorRT for RTX where they are installed, and
# real fp16 beside the simulation that verdicts use on a CPU. Needs an NVIDIA GPU, torch and this folder; no network.
#   scripts/gpu_check.sh [--output benchmarks/results/gpu_check.json] [NAME...]
#
# On a machine of Python 3.12 that has torch, torchvision, onnx, onnxscript, onnxruntime, safetensors and Pillow, but
# can fetch nothing, bring the rest as wheels. Where something can be fetched (6 MB):
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 -d .whl timm==1.0.31 \
#     segmentation-models-pytorch==0.6.0 pydantic==2.14.3 pydantic-core==2.50.4 annotated-types==0.8.0 \
#     typing-inspection==0.4.5 typing-extensions==4.16.0
# for ONNX Runtime on the GPU also onnxruntime-gpu==1.31.1 (256 MB, for CUDA 13); and there, in this folder:
#   python3 -m pip install -q --no-index --no-deps --target /tmp/site .whl/*.whl
#   PYTHONPATH=/tmp/site scripts/gpu_check.sh --output /tmp/gpu_check.json
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
exec env PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}" "$python" -m scripts.gpu_check "$@"
