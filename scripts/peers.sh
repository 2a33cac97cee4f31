#!/usr/bin/env bash
# An environment for each peer in .cache/peers: the servers that benchmarks/studies/serving/peers.py compares Triton with.
#   UV=.uv/bin/uv scripts/peers.sh
set -euo pipefail
cd "$(dirname "$0")/.."
for lock in requirements/peers/*.lock; do
  environment=.cache/peers/$(basename "$lock" .lock)
  "${UV:-uv}" venv --quiet --allow-existing --python "${PYTHON:-python3}" "$environment"
  VIRTUAL_ENV=$environment "${UV:-uv}" pip sync --quiet --compile-bytecode --require-hashes "$lock"
done
