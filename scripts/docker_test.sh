#!/usr/bin/env bash
# Serve a model in real containers, with Compose and with `server up --runtime docker`, and compare the answers with
# those of the ONNX file. Train and export in containers too. The script starts its own Docker engine and keeps downloads
# in .cache/docker. Needs root and Debian 12; prints "skipped: …" elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH:/usr/sbin:/sbin"
kept=$PWD/.cache/docker
packages=(docker.io docker-compose debootstrap)

skip() {
  echo "skipped: $*"
  exit 0
}

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

fail() {
  echo "docker test failed: $*" >&2
  exit 1
}

[[ $(id -u) == 0 ]] || skip "needs root, to start a Docker engine of its own"
# shellcheck disable=SC1091
release=$(. /etc/os-release && echo "${ID:-}-${VERSION_CODENAME:-}")
[[ $release == debian-bookworm ]] || skip "needs Debian 12 to install an engine and to make a base image, this is $release"
[[ -d .cache/data/lite0 ]] || fail "run \`make data\` first"

missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat '${db:Status-Status}' "$package" 2> /dev/null | grep -qx installed || missing+=("$package")
done
mkdir -p "$kept"
exec 9> "$kept/lock"
flock 9 # one engine has the kept images at a time
if ((${#missing[@]})); then
  step "install ${missing[*]}"
  # RUNLEVEL=1: the machine's own Docker service is not to start.
  { apt-get -qq update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
    "${missing[@]}"; } > "$kept/apt.log" 2>&1 9>&- || skip "apt-get cannot install ${missing[*]}: $(tail -n 1 "$kept/apt.log")"
fi

work=$(mktemp -d /tmp/tritonkit-docker.XXXXXX)
chmod 755 "$work" # the user in the containers must get at the models
export DOCKER_HOST=unix://$work/docker.sock TRITONKIT_STATE=$work/state DEBIAN_IMAGE=tritonkit-test/debian:bookworm
export DOCKER_BUILDKIT=0 COMPOSE_PROJECT_NAME=tritonkit-test TRITONKIT_ADMIN_TOKEN=docker-test
unset TRITON_IMAGE TRITON_CPU_IMAGE TRITONKIT_TOKEN MODELS
engine=
cleanup() {
  local code=$?
  if [[ -n $engine ]]; then
    ((code == 0)) || docker ps --all --quiet | xargs --no-run-if-empty --max-args=1 docker logs --tail 20 || true
    docker ps --all --quiet | xargs --no-run-if-empty docker rm --force > /dev/null 2>&1 || true
    kill "$engine" 2> /dev/null || true
    wait "$engine" 2> /dev/null || true
    ((code == 0)) || tail -n 5 "$work/dockerd.log"
  fi
  grep -o " $work/[^ ]*" /proc/mounts | xargs --no-run-if-empty umount 2> /dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

start_engine() {
  dockerd --iptables=false --bridge=none --data-root "$kept/data" --exec-root "$work/exec" \
    --pidfile "$work/docker.pid" --host "$DOCKER_HOST" > "$work/dockerd.log" 2>&1 9>&- &
  engine=$!
  for _ in {1..300}; do
    docker info > /dev/null 2>&1 && return
    kill -0 "$engine" 2> /dev/null || break
    sleep 0.1
  done
  kill "$engine" 2> /dev/null || true
  wait "$engine" 2> /dev/null || true
  engine=
  skip "no Docker engine runs here: $(grep -E 'level=(error|fatal)|failed' "$work/dockerd.log" | tail -n 1)"
}

# A base image as a registry would give it, with what lets this machine reach its package index.
make_base() {
  docker image inspect "$DEBIAN_IMAGE" > /dev/null 2>&1 && return
  local root=$work/root
  if [[ ! -f $kept/bookworm.tar ]]; then
    step "make a Debian image"
    debootstrap --variant=minbase bookworm "$root" > "$work/debootstrap.log" 2>&1 9>&- \
      || skip "debootstrap finds no Debian: $(tail -n 1 "$work/debootstrap.log")"
    cp --parents --recursive /usr/local/share/ca-certificates "$root"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources /etc/pip.conf; do
      rm -f "$root$file"
      [[ ! -f $file ]] || cp --parents "$file" "$root"
    done
    tar --create --directory "$root" --exclude './var/cache/apt/archives/*.deb' --file "$kept/bookworm.tar.partial" .
    mv "$kept/bookworm.tar.partial" "$kept/bookworm.tar"
    rm -rf "$root"
  fi
  docker import "$kept/bookworm.tar" "$DEBIAN_IMAGE" > /dev/null
}

check_answers() { # ADDRESS HTTP_PORT
  client infer .cache/data/photos --model imagenet --url "$1" --json > "$work/served.json"
  python -m scripts.drills.docker_drill compare "$work/file.json" "$work/served.json"
  curl --fail --silent --show-error --output "$work/encoded" --header 'Inference-Header-Content-Length: 0' \
    --data-binary @.cache/data/photos/cat.jpg "http://127.0.0.1:$2/v2/models/imagenet_encoded/infer" \
    || fail "the ensemble for encoded pictures did not answer"
  python -m scripts.drills.docker_drill compare-encoded "$work/served.json" cat.jpg "$work/encoded"
  [[ $(curl --silent --output /dev/null --write-out '%{http_code}' --request POST \
    "http://127.0.0.1:$2/v2/repository/index") == 403 ]] || fail "the repository API answers without the token"
  curl --fail --silent --output /dev/null --header "tritonkit-token: $TRITONKIT_ADMIN_TOKEN" --request POST \
    "http://127.0.0.1:$2/v2/repository/index" || fail "the repository API does not take the token"
}

compose() { docker-compose --file "$work/compose.json" "$@"; }

# Containers of this engine have the machine's network or none: the file is the project's own, on that network.
write_compose() {
  read -r http grpc metrics <<< "$(python -m scripts.drills.docker_drill ports)"
  MODEL_REPOSITORY=$repository docker-compose --profile cpu config \
    | python -m scripts.drills.docker_drill host-network "$http" "$grpc" "$metrics" > "$work/compose.json"
}

compose_up() {
  compose up --detach triton-cpu 2> /dev/null
  local container health=
  container=$(docker ps --quiet --filter label=com.docker.compose.service=triton-cpu)
  for _ in {1..300}; do
    health=$(docker inspect --format '{{.State.Health.Status}}' "$container")
    [[ $health != healthy ]] || return 0
    sleep 0.2
  done
  fail "the service did not become healthy: $health"
}

compose_down() {
  compose --profile cpu down > "$work/down.log" 2>&1 || fail "$(tail -n 5 "$work/down.log")"
  for _ in {1..50}; do
    [[ -n $(docker ps --all --quiet) ]] || return 0 # the engine may list it for a moment more
    sleep 0.2
  done
  fail "docker-compose down left a container: $(docker ps --all) $(cat "$work/down.log")"
}

start_engine
make_base

step "export a model"
repository=$work/repository
builder export .cache/data/lite0/efficientnet_lite0.pth --model tf_efficientnet_lite0 \
  --labels .cache/data/lite0/labels.txt --name imagenet --repository "$repository" > /dev/null 2> "$work/export.log" \
  || fail "$(tail -n 3 "$work/export.log")"
client infer .cache/data/photos --from "$repository/imagenet/1/model.onnx" --json > "$work/file.json"

step "build the CPU image and start it with Compose"
write_compose
compose build triton-cpu > "$work/build.log" 2>&1 || fail "$(tail -n 5 "$work/build.log")"
compose_up
check_answers "127.0.0.1:$grpc" "$http"
compose_down

step "the same with signatures"
mkdir "$work/keys"
openssl ecparam -name prime256v1 -genkey -noout -out "$work/private.pem"
openssl ec -in "$work/private.pem" -pubout -out "$work/keys/model.pub" 2> /dev/null
builder sign "$repository" --key "$work/private.pem" > /dev/null 2> "$work/sign.log" || fail "$(tail -n 3 "$work/sign.log")"
chmod -R a+rX "$repository"
REQUIRE_SIGNED=model.pub TLS_FOLDER=$work/keys write_compose
compose_up
check_answers "127.0.0.1:$grpc" "$http"
compose_down
cp "$repository/imagenet/labels.txt" "$work/labels.txt"
echo other >> "$repository/imagenet/labels.txt"
! compose run --rm triton-cpu > "$work/refused" 2>&1 || fail "started what was changed after it was signed"
grep -q 'imagenet version 1: was changed since it was signed: labels.txt' "$work/refused" || fail "$(cat "$work/refused")"
cp "$work/labels.txt" "$repository/imagenet/labels.txt"
compose_down

step "the same with TLS, certificates of clients, a token to use it, and one model alone"
mkdir "$work/tls"
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$work/tls/own.key" -out "$work/tls/own.pem" -days 2 \
  -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 2> /dev/null
chown 1000 "$work/tls/own.key"
TRITONKIT_TOKEN=for-use MODELS=imagenet GRPC_ADDRESS=0.0.0.0 TLS_FOLDER=$work/tls TLS_CERTIFICATE=own.pem \
  TLS_KEY=own.key TLS_CA=own.pem write_compose
compose_up
ask=(client infer .cache/data/photos --model imagenet --url "grpcs://127.0.0.1:$grpc" --tls-ca "$work/tls/own.pem" --json)
shown=(--tls-cert "$work/tls/own.pem" --tls-key "$work/tls/own.key")
TRITONKIT_TOKEN=for-use "${ask[@]}" "${shown[@]}" > "$work/served.json"
python -m scripts.drills.docker_drill compare "$work/file.json" "$work/served.json"
! TRITONKIT_TOKEN=for-use "${ask[@]}" > /dev/null 2> "$work/refused" || fail "answered without a client's certificate"
grep -q 'no TLS with' "$work/refused" || fail "$(cat "$work/refused")"
! "${ask[@]}" "${shown[@]}" > /dev/null 2> "$work/refused" || fail "answered without the token"
grep -q 'does not read .* restricted, expecting header' "$work/refused" || fail "$(cat "$work/refused")"
loaded() { curl --silent --output /dev/null --write-out '%{http_code}' --header 'tritonkit-token: for-use' \
  "http://127.0.0.1:$http/v2/models/$1/ready"; }
[[ $(loaded imagenet) == 200 ]] || fail "the model that MODELS names is not ready"
[[ $(loaded imagenet_encoded) == 400 ]] || fail "a model that MODELS does not name was loaded"
compose_down

step "train and export in containers"
# The packages of the image are 6 GB. Unless DOCKER_TEST_FULL is set, the Dockerfile gets a short lock, and the
# containers get the packages of .venv, which has those of the whole lock.
installed=$PWD/.venv/lib/python3.11/site-packages
[[ -d $installed ]] || DOCKER_TEST_FULL=yes # Debian's Python needs packages for 3.11
if [[ -n ${DOCKER_TEST_FULL:-} ]]; then
  lock=requirements/train.lock mounted=()
else
  lock=requirements/decode.lock mounted=(--volume "$installed:/opt/tritonkit/lib/python3.11/site-packages:ro")
fi
project=$work/project
mkdir --parents "$project/data"
cp --recursive .cache/data/digits/[017] "$project/data"
cp examples/digits.yaml "$project"
chown --recursive 4321:4321 "$project"
TRAIN_USER=4321:4321 PWD=$project docker-compose --profile tools config \
  | python -m scripts.drills.docker_drill tools-on-host-network > "$work/tools.json"
tool() { docker-compose --file "$work/tools.json" "$@" 2> "$work/tool.log" || fail "$(tail -n 5 "$work/tool.log")"; }
tool build --build-arg "LOCK=$lock" train-cpu > "$work/build.log"
echo "built (after $SECONDS s)"
trained=$(tool run -T --rm "${mounted[@]}" train-cpu fit digits.yaml data.path=data epochs=1 | tail -n 1)
[[ $(stat --format %u "$project/$trained") == 4321 ]] || fail "the checkpoint is not the caller's: $trained"
tool run -T --rm "${mounted[@]}" builder-cpu export "$trained" > /dev/null
[[ -f $project/model_repository/digits/1/model.onnx ]] || fail "nothing was exported"
(cd "$project" && train test "$trained" > /dev/null) || fail "paths of the container are not those outside"

step "the same with server up --runtime docker, which builds the image"
docker tag tritonkit/triton-cpu tritonkit-test/built # what was built stays known to the engine
docker rmi tritonkit/triton-cpu > /dev/null
export TRITON_NETWORK=host
read -r http grpc metrics <<< "$(python -m scripts.drills.docker_drill ports)"
ports=(--http-port "$http" --grpc-port "$grpc" --metrics-port "$metrics")
server up --runtime docker --repository "$repository" "${ports[@]}"
[[ $(docker inspect --format '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}' "tritonkit-$grpc") == "1000:1000 true" ]] \
  || fail "the container is not closed"
server status
server logs --lines 1 | grep -q 'Started Metrics Service' || fail "server logs does not show the container's"
check_answers "127.0.0.1:$grpc" "$http"
kill -KILL "$(docker inspect --format '{{.State.Pid}}' "tritonkit-$grpc")"
client infer .cache/data/photos --model imagenet --url "127.0.0.1:$grpc" --wait 60 --json > "$work/served.json"
python -m scripts.drills.docker_drill compare "$work/file.json" "$work/served.json"
server status | grep 'restarted 1 time' || fail "the engine did not start a Triton again that died"
server down
[[ -z $(docker ps --all --quiet) ]] || fail "server down left a container"

step "an image without Pillow, as NVIDIA's is"
docker build --quiet --tag tritonkit-test/no-pillow - > /dev/null << END
FROM tritonkit/triton-cpu
USER root
RUN rm -r /opt/triton/lib/python3.11/site-packages/PIL
USER 1000:1000
END
server up --runtime docker --image tritonkit-test/no-pillow --repository "$repository" "${ports[@]}"
client infer .cache/data/photos --model imagenet --url "127.0.0.1:$grpc" --json > "$work/served.json"
python -m scripts.drills.docker_drill compare "$work/file.json" "$work/served.json"
curl --silent --show-error --output "$work/encoded" --header 'Inference-Header-Content-Length: 0' \
  --data-binary @.cache/data/photos/cat.jpg "http://127.0.0.1:$http/v2/models/imagenet_encoded/infer"
grep -q "Triton's Python has no Pillow" "$work/encoded" || fail "not refused with the reason: $(head -c 300 "$work/encoded")"
server down

step "one that ends with the process that started it"
server up --foreground --runtime docker --repository "$repository" "${ports[@]}" > "$work/foreground.log" 2>&1 9>&- &
started=$!
disown "$started" # bash is not to tell of its end
for _ in {1..300}; do ! grep -q ready: "$work/foreground.log" || break; sleep 0.2; done
[[ -n $(docker ps --quiet) ]] || fail "$(cat "$work/foreground.log")"
kill -KILL "$started"
for _ in {1..200}; do [[ -n $(docker ps --all --quiet) ]] || break; sleep 0.2; done
[[ -z $(docker ps --all --quiet) ]] || fail "a container outlived the process that was killed"

step "a corrupt model"
truncate --size 5000 "$repository/imagenet/1/model.onnx"
# --force: past `server doctor`, which sees it before the start.
if server up --force --runtime docker --repository "$repository" "${ports[@]}" 2> "$work/refused"; then
  fail "a corrupt model was served"
fi
grep -q 'model imagenet version 1: .*Protobuf parsing failed' "$work/refused" || fail "$(cat "$work/refused")"
[[ -z $(docker ps --all --quiet) ]] || fail "the container of a failed start was left"
step "done: Compose and the docker runtime serve what the ONNX file answers; a model was trained in a container"
