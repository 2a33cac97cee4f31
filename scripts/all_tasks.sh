#!/usr/bin/env bash
# Each task on real data: train from its example configuration, export with a verdict, serve with Triton, and measure
# the checkpoint, the ONNX file and the server on the same images. Results are in all_tasks/.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
out=all_tasks
examples=(${*:-fashion mosaics units stamps heads})
ports=(--http-port "${HTTP_PORT:-8000}" --grpc-port "${GRPC_PORT:-8001}" --metrics-port "${METRICS_PORT:-8002}")
url=127.0.0.1:${GRPC_PORT:-8001}

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

rm -rf "$out"
mkdir -p "$out"

for name in "${examples[@]}"; do
  mkdir -p "$out/$name/pictures"
  step "$name: train"
  started=$SECONDS
  train fit "examples/$name.yaml" "output=$out/runs" --json > "$out/$name/fit.json"
  echo $((SECONDS - started)) > "$out/$name/seconds"

  step "$name: export it and verify it against the checkpoint"
  checkpoint=$out/runs/$name/1/best.safetensors
  builder export "$checkpoint" --repository "$out/model_repository"

  step "$name: measure the checkpoint and the ONNX file"
  train test "$checkpoint" --mistakes "$out/$name/mistakes.html" --json > "$out/$name/checkpoint.json"
  train test "$checkpoint" --from "$out/model_repository/$name/1/model.onnx" --json > "$out/$name/onnx.json"
  python -m scripts.demo.held_out "$out/runs/$name/1/splits" "$out/$name/pictures"
done

step "serve all of them"
server up --repository "$out/model_repository" "${ports[@]}"
trap 'server down --grpc-port "${GRPC_PORT:-8001}" > /dev/null' EXIT

for name in "${examples[@]}"; do
  step "$name: infer and measure through the server"
  shown=()
  case $name in
    units) shown=(--output "$out/units/embeddings.npy") ;;
    stamps) shown=(--masks "$out/stamps/masks" --cutouts "$out/stamps/cutouts" --background white) ;;
  esac
  client infer "$out/$name/pictures" --model "$name" --url "$url" \
    --output "$out/$name/answers.jsonl" "${shown[@]}" --gallery "$out/$name/answers.html" > /dev/null
  train test "$out/runs/$name/1/best.safetensors" --url "$url" --json > "$out/$name/triton.json"
done

step "compare, and write the page"
python -m scripts.demo.all_tasks_page "$out" "${examples[@]}"
