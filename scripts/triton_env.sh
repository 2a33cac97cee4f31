#!/usr/bin/env bash
# Make .venv-triton: NVIDIA's tritonserver binary from a wheel. Its Python backend loads libpython as a shared
# library, so the interpreter must be 3.11 to 3.13 and have one; otherwise uv fetches an interpreter that does.
set -eu
cd "$(dirname "$0")/.."
shared='
import pathlib, sys, sysconfig
name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
folders = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", "/usr/lib/" + sysconfig.get_config_var("MULTIARCH")]
ok = (3, 11) <= sys.version_info[:2] <= (3, 13) and any(pathlib.Path(f, name).exists() for f in folders if f)
sys.exit(0 if ok else 1)'
if "$PYTHON" -c "$shared"; then
  interpreter=("--python" "$PYTHON")
else
  echo "$PYTHON has no shared libpython (or is newer than 3.13): using one that uv manages for Triton"
  interpreter=("--managed-python" "--python" "3.12")
fi
"$UV" venv --quiet --allow-existing "${interpreter[@]}" .venv-triton
VIRTUAL_ENV=.venv-triton "$UV" pip sync --quiet --compile-bytecode --require-hashes requirements/triton.lock
