#!/usr/bin/env bash
# NVIDIA's perf_analyzer in .cache/perf_analyzer, from packages that are not installed: the binary of tritonclient's
# wheel (BSD-3-Clause), the CUDA runtime that it loads (NVIDIA's EULA), and Debian's libb64 (public domain).
# What benchmarks/studies/perf_analyzer.py compares `bench run` with.
#   UV=.uv/bin/uv scripts/perf_analyzer.sh
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$PWD/.cache/perf_analyzer
[[ ! -x $folder/perf_analyzer ]] || exit 0
command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || { echo "needs apt-get and dpkg-deb" >&2; exit 1; }
mkdir -p .cache
work=$(mktemp -d "$PWD/.cache/perf_analyzer.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state/lists,cache/archives}/partial "$work/unpacked"

# apt-get with package lists of its own, so that it needs neither root nor the machine's lists.
private_apt_get() {
  apt-get -qq -o Dir::State="$work/state" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root \
    -o Acquire::Languages=none "$@" >> "$work/log" 2>&1 || { tail -n 1 "$work/log" >&2; exit 1; }
}

"${UV:-uv}" pip install --quiet --no-deps --require-hashes --target "$work/wheels" \
  --requirement requirements/perf_analyzer.lock
private_apt_get update
(cd "$work" && private_apt_get download libb64-0d)
dpkg-deb --extract "$work"/libb64-0d_*.deb "$work/debian"
cp "$work"/wheels/bin/perf_analyzer "$work"/wheels/nvidia/cuda_runtime/lib/libcudart.so.12 "$work/unpacked"
cp "$work"/debian/usr/lib/*/libb64.so.0d "$work/unpacked"
mv --no-target-directory "$work/unpacked" "$folder" 2> /dev/null || [[ -x $folder/perf_analyzer ]]
