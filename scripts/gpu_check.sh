#!/usr/bin/env bash
# Measure torch and ONNX Runtime on CUDA, TensorRT and TensorRT for RTX if they are installed, against torch on the CPU,
# and fp16 hardware against the simulation of a verdict. Needs an NVIDIA GPU, torch and this folder; no network.
#   scripts/gpu_check.sh [--output benchmarks/results/gpu_check.json] [NAME...]
#
# On a machine with Python 3.12 that has torch, torchvision, onnx, onnxscript, onnxruntime, safetensors and Pillow, but
# no network, bring the rest as wheels. On a machine with network (6 MB):
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 -d .whl timm==1.0.31 \
#     segmentation-models-pytorch==0.6.0 pydantic==2.14.3 pydantic-core==2.50.4 annotated-types==0.8.0 \
#     typing-inspection==0.4.5 typing-extensions==4.16.0 polygraphy==0.53.6
# For ONNX Runtime on the GPU also onnxruntime-gpu==1.31.1 (256 MB, for CUDA 13). Then, on the other machine:
#   python3 -m pip install -q --no-index --no-deps --target /tmp/site .whl/*.whl
#   PYTHONPATH=/tmp/site scripts/gpu_check.sh --output /tmp/gpu_check.json
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
exec env PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}" "$python" -m benchmarks.studies.gpu_check "$@"
