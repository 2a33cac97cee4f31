#!/bin/sh
# Builds Triton's command line from the settings of .env, as `server up --runtime docker` does.
# Options of the container come last and override these.
set -eu

fail() {
  echo "error: $*" >&2
  exit 2
}

say() {
  echo "tritonkit: $*" >&2
}

case "${1:-}" in
  '' | -* | healthy) ;;
  *) exec "$@" ;; # another command, as with `docker run IMAGE tritonserver …`
esac

models=${MODELS_FOLDER:-/models}
set -f # `*` (all models) is for Triton, not for the shell
loaded=$(echo "${MODELS:-}" | tr ',' ' ')

answers() {
  curl --noproxy '*' --fail --silent --max-time 2 --output /dev/null "$1"
}

# healthy [ADDRESS]: the health check. Triton is healthy if it is ready and at least one of its models is.
if [ "${1:-}" = healthy ]; then
  address=${2:-http://127.0.0.1:8000}/v2
  answers "$address/health/ready" || exit 1
  for model in ${loaded:-$(ls "$models")}; do
    ! answers "$address/models/$model/ready" || exit 0
  done
  echo "no model answers" && exit 1
fi

certificates=${TLS_MOUNT:-/tls}

check_token() {
  case "$2" in
    *[!A-Za-z0-9._~-]*) fail "$1: a token holds letters, digits and . _ ~ - alone; make one: openssl rand -hex 24" ;;
  esac
}

# check_file SETTING NAME: check that NAME is a readable file in the mount.
check_file() {
  case "/$2/" in
    //* | */../*) fail "$1=$2: expected the name of a file in TLS_FOLDER of .env, such as server.pem" ;;
  esac
  set -- "$1" "$certificates/$2"
  { [ -f "$2" ] && [ -r "$2" ]; } \
    || fail "$1: $2 cannot be read by user $(id -u); put the file into TLS_FOLDER of .env and make it readable"
}

for model in $loaded; do
  case "$model" in
    [!A-Za-z0-9_]* | *[!A-Za-z0-9._-]*)
      fail "MODELS: $model is not a model name: expected names of folders in the model repository, separated by spaces"
      ;;
  esac
done

# tritonkit[signing] lies apart in both images of tritonkit. In an image without it nothing is started.
if [ -n "${REQUIRE_SIGNED:-}" ]; then
  packages=/opt/tritonkit/signing
  PYTHONPATH=$packages python3 -c 'import tritonkit.repository.signing.check, model_signing' 2>/dev/null \
    || fail "REQUIRE_SIGNED=$REQUIRE_SIGNED: this image cannot check signatures; build one with deploy/Dockerfile or" \
      "deploy/Dockerfile.gpu"
  check_file REQUIRE_SIGNED "$REQUIRE_SIGNED"
  # shellcheck disable=SC2086 # one word per model
  PYTHONPATH=$packages python3 -m tritonkit.repository.signing "$models" "$certificates/$REQUIRE_SIGNED" $loaded || exit $?
fi

administration=model-repository,trace,logging,shared-memory
case "${GRPC_ADDRESS:-127.0.0.1}" in
  127.* | localhost) ;;
  *)
    [ -n "${TLS_CERTIFICATE:-}" ] || [ "${PLAINTEXT:-}" = yes ] \
      || fail "GRPC_ADDRESS=$GRPC_ADDRESS lets other machines connect without TLS; set TLS_CERTIFICATE and TLS_KEY in" \
        ".env, or accept it with PLAINTEXT=yes"
    ;;
esac

admin=${TRITONKIT_ADMIN_TOKEN:-}
check_token TRITONKIT_ADMIN_TOKEN "$admin"
check_token TRITONKIT_TOKEN "${TRITONKIT_TOKEN:-}"
if [ -z "$admin" ]; then
  admin=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
  say "no TRITONKIT_ADMIN_TOKEN in .env: models can be loaded and unloaded only by a restart"
fi

# guard APIS TOKEN: require a token for these APIs, over HTTP and gRPC.
guard() {
  guarded="$guarded --http-restricted-api=$1:tritonkit-token=$2 --grpc-restricted-protocol=$1:tritonkit-token=$2"
}
guarded=
guard "$administration" "$admin"
[ -z "${TRITONKIT_TOKEN:-}" ] || guard inference,metadata,model-config,statistics "$TRITONKIT_TOKEN"

[ -z "${TLS_KEY:-}" ] || [ -n "${TLS_CERTIFICATE:-}" ] \
  || fail "TLS_KEY needs TLS_CERTIFICATE, the name of its certificate in TLS_FOLDER; set both in .env, or neither"
if [ -n "${TLS_CERTIFICATE:-}" ]; then
  check_file TLS_CERTIFICATE "$TLS_CERTIFICATE"
  [ -n "${TLS_KEY:-}" ] || fail "TLS_CERTIFICATE needs TLS_KEY, the name of its key in TLS_FOLDER; set both in .env"
  check_file TLS_KEY "$TLS_KEY"
  set -- "--grpc-use-ssl=true" "--grpc-server-cert=$certificates/$TLS_CERTIFICATE" \
    "--grpc-server-key=$certificates/$TLS_KEY" "$@"
fi
if [ -n "${TLS_CA:-}" ]; then
  check_file TLS_CA "$TLS_CA"
  [ -n "${TLS_CERTIFICATE:-}" ] || fail "TLS_CA (mutual TLS) needs TLS_CERTIFICATE and TLS_KEY"
  set -- "--grpc-use-ssl-mutual=true" "--grpc-root-cert=$certificates/$TLS_CA" "$@"
fi
case "${CACHE_MIB:-0}" in
  *[!0-9]* | 0?*) fail "CACHE_MIB=$CACHE_MIB: expected a whole number of MiB in .env, such as 64; 0: no cache" ;;
esac
[ "${CACHE_MIB:-0}" -eq 0 ] || set -- "--cache-config=local,size=$((CACHE_MIB * 1048576))" "$@"
case "${VERSION_COMPATIBLE:-no}" in
  yes) set -- "--backend-config=tensorrt,version-compatible=true" "$@" ;;
  no) ;;
  *) fail "VERSION_COMPATIBLE=$VERSION_COMPATIBLE: expected yes or no in .env" ;;
esac
# Newer releases refuse HTTP requests above 64 MiB by default; this allows an image file of 256 MiB.
case "$(tritonserver --help 2>&1)" in
  *--http-max-input-size*) set -- "--http-max-input-size=269484032" "$@" ;;
esac
# shellcheck disable=SC2086 # one word per option: tokens and model names contain no spaces
set -- $guarded "$@"
# The CPU image decodes and runs the model in one process; NAME_encoded does not load NAME by itself then.
if [ -n "${TRITONKIT_LOADED:-}" ]; then
  set -- --model-config-name=one_process "$@"
  for model in $loaded; do
    case "$model" in
      ?*_encoded) [ ! -d "$models/${model%_encoded}" ] || loaded="$loaded ${model%_encoded}" ;;
    esac
  done
fi
for model in ${loaded:-"*"}; do set -- "--load-model=$model" "$@"; done
set -- tritonserver "--model-repository=$models" --http-address=0.0.0.0 --grpc-address=0.0.0.0 \
  --metrics-address=0.0.0.0 --http-port=8000 --grpc-port=8001 --metrics-port=8002 \
  --model-control-mode=explicit --strict-readiness=false --exit-on-error=false --exit-timeout-secs=20 "$@"
# NVIDIA's entrypoint sets up the libraries for older drivers.
[ ! -x /opt/nvidia/nvidia_entrypoint.sh ] || set -- /opt/nvidia/nvidia_entrypoint.sh "$@"
exec "$@"
