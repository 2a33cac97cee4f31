#!/usr/bin/env bash
# Resolve requirements/*.lock again: hashed, for every Python the project supports, no registry's address inside.
set -eu
cd "$(dirname "$0")/.."
compile() {
  "$UV" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
    --custom-compile-command "make lock" --upgrade "$@"
}
compile pyproject.toml --extra dev --constraint requirements/constraints.txt --output-file requirements/dev.lock
tools=(--extra train --extra builder --extra openvino --extra tracking --extra compression --extra search --extra autolabel)
tools+=(--extra faiss --extra people --extra store --extra signing --extra dvc --extra remote)
compile pyproject.toml "${tools[@]}" --constraint requirements/dev.lock --output-file requirements/train.lock
compile pyproject.toml --extra client --output-file requirements/client.lock
compile pyproject.toml --extra signing --constraint requirements/dev.lock --output-file requirements/signing.lock
compile requirements/triton.in --output-file requirements/triton.lock
compile requirements/decode.in --no-deps --constraint requirements/triton.lock --output-file requirements/decode.lock
compile requirements/data.in --no-deps --output-file requirements/data.lock
compile requirements/perf_analyzer.in --no-deps --output-file requirements/perf_analyzer.lock
shared=$(grep -oE '^(numpy|onnxruntime|pillow)==[0-9.]+' requirements/triton.lock)  # what Triton decodes and runs with
for peer in requirements/peers/*.in; do
  compile "$peer" --constraint <(echo "$shared") --output-file "${peer%.in}.lock"
done
echo "uv" | compile - --output-file requirements/uv.lock
"${PYTHON:-python3}" scripts/check_releases.py
