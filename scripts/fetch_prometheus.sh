#!/usr/bin/env bash
# Debian's Prometheus and promtool in .cache/prometheus, unpacked without root, not installed: what the tests ask the
# dashboard's questions of. Apache-2.0.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$PWD/.cache/prometheus
[[ ! -x $folder/usr/bin/prometheus ]] || exit 0
command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || { echo "needs apt-get and dpkg-deb" >&2; exit 1; }
work=$(mktemp -d "$PWD/.cache/prometheus.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state/lists,cache/archives}/partial "$work/unpacked"

# apt-get with package lists of its own, so that it needs neither root nor the machine's lists.
private_apt_get() {
  apt-get -qq -o Dir::State="$work/state" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root \
    -o Acquire::Languages=none "$@" >> "$work/log" 2>&1 || { tail -n 1 "$work/log" >&2; exit 1; }
}

private_apt_get update
(cd "$work" && private_apt_get download prometheus)
dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb \
  | tar --extract --directory "$work/unpacked" ./usr/bin ./usr/share/doc/prometheus/copyright
mv --no-target-directory "$work/unpacked" "$folder" 2> /dev/null || [[ -x $folder/usr/bin/prometheus ]]
