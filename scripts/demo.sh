#!/usr/bin/env bash
# The full workflow on real data: train, export with a verdict, serve, infer, measure. Results are in demo/.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
data=.cache/data
demo=demo
ports=(--http-port "${HTTP_PORT:-8000}" --grpc-port "${GRPC_PORT:-8001}" --metrics-port "${METRICS_PORT:-8002}")
url=127.0.0.1:${GRPC_PORT:-8001}

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

for port in "${ports[@]}"; do
  [[ $port == --* ]] || ! (: > "/dev/tcp/127.0.0.1/$port") 2> /dev/null || {
    echo "error: port $port is in use; choose others: HTTP_PORT=9000 GRPC_PORT=9001 METRICS_PORT=9002 make demo" >&2
    exit 3
  }
done

rm -rf "$demo"
mkdir -p "$demo/held_out"

step "1. train on 5,000 handwritten digits"
checkpoint=$(train fit examples/digits.yaml "output=$demo/runs" | tee >(cat >&2) | tail -n 1)
train test "$checkpoint" --json > "$demo/test.json"

step "2. export it and verify it against the checkpoint"
builder export "$checkpoint" --repository "$demo/model_repository"

step "3. import third-party ImageNet weights"
builder export "$data/lite0/efficientnet_lite0.pth" --model tf_efficientnet_lite0 \
  --labels "$data/lite0/labels.txt" --name imagenet --repository "$demo/model_repository"
builder check "$demo/model_repository"

step "4. start NVIDIA Triton"
server up --repository "$demo/model_repository" "${ports[@]}"
trap 'server down --grpc-port "${GRPC_PORT:-8001}" > /dev/null' EXIT

step "5. classify images"
python -m scripts.demo.held_out "$(dirname "$checkpoint")/splits" "$demo/held_out"
client infer "$demo/held_out" --model digits --url "$url" \
  --output "$demo/digits.jsonl" --gallery "$demo/digits.html" > /dev/null
client infer "$data/photos" --model imagenet --url "$url" \
  --output "$demo/photos.jsonl" --gallery "$demo/photos.html"

step "6. measure it"
bench run imagenet --url "$url" --repository "$demo/model_repository" --concurrency 1:16 \
  --window-s 1 --max-windows 5 --output "$demo/record.json"
bench report "$demo/record.json" --html "$demo/report.html"

step "7. check the answers and stop the server"
python -m scripts.demo.demo_page "$demo"

cat <<END

All results are in $demo/. Open in a browser:
  $demo/index.html              images with their answers, and the performance report
  $demo/model_repository/       what Triton served: artifacts, verdicts, manifests
Next, with an NVIDIA GPU and Docker: MODEL_REPOSITORY=./$demo/model_repository docker compose up triton
Or serve it again without either:    .venv/bin/server up --repository $demo/model_repository
END
