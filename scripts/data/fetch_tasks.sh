#!/usr/bin/env bash
# Fetch real images for the example trainings from Debian packages; they are unpacked without root, not installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
debian=.cache/packages/debian
apt=$PWD/.cache/apt

fail() {
  echo "make data-tasks: $*" >&2
  exit 1
}

# apt-get with package lists of its own, so that it needs neither root nor the machine's lists.
private_apt_get() {
  apt-get -qq -o Dir::State="$apt/state" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root \
    -o Acquire::Languages=none "$@" >> "$apt/log" 2>&1
}

read_lists() {
  command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null \
    || fail "needs apt-get and dpkg-deb, as on Debian 12 or in its container image, to download $1"
  rm -rf "$apt" && mkdir -p "$apt"/{state/lists,cache/archives}/partial
  private_apt_get update || fail "apt-get found no package lists: $(tail -n 1 "$apt/log")"
}

# fetch PACKAGE PATTERN…: the package's files that match, and its copyright file, as $debian/PACKAGE/usr/share/…
fetch() {
  local package=$1 unpacked=$debian/$1 partial=$apt/$1
  shift
  [[ -d $unpacked ]] && diff -q <(printf '%s\n' "$@") "$unpacked/patterns" > /dev/null 2>&1 && return
  [[ -d $apt/state ]] || read_lists "$package"
  mkdir -p "$debian" "$partial"
  (cd "$apt" && private_apt_get download "$package") \
    || fail "apt-get cannot download $package (Debian 12 has it): $(tail -n 1 "$apt/log")"
  dpkg-deb --fsys-tarfile "$apt/$package"_*.deb \
    | tar --extract --directory "$partial" --wildcards "${@/#/./usr/share/}" "./usr/share/doc/$package/copyright"
  printf '%s\n' "$@" > "$partial/patterns"
  rm -rf "$unpacked"
  mv "$partial" "$unpacked"
  echo "$package: fetched"
}

rm -rf "$apt"
# dataset-fashion-mnist: MIT
fetch dataset-fashion-mnist 'datasets/fashion-mnist/*.gz'
# wesnoth-1.16-data: GPL-2 or later
fetch wesnoth-1.16-data 'games/wesnoth/1.16/data/core/images/units/*.png'
# tuxpaint-stamps-default: GPL-2
fetch tuxpaint-stamps-default tuxpaint/stamps/{animals,food,plants}/'*.png'
# opencv-doc: BSD-3-Clause and Apache-2.0
fetch opencv-doc 'doc/opencv-doc/examples/*.jpg' doc/opencv-doc/examples/data/vtest.avi
# labelme-examples: GPL-3 or later; the photographs are of PASCAL VOC
fetch labelme-examples 'doc/labelme-examples/examples/instance_segmentation/data_annotated/*'
rm -rf "$apt"
.venv/bin/python -m scripts.data.tasks .cache/packages .cache/data
