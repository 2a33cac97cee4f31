#!/usr/bin/env bash
# People in pictures, from a collection to a signed pipeline that a store delivers: collect, segment into PostgreSQL,
# cut out, train, publish two models as one, package, sign, push, pull, install, serve, infer. Results are in people/.
# TRITONKIT_MASKS: the address of a PostgreSQL of your own; without it, one is started on a socket in the results' folder.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
data=.cache/data/people
out=people
ports=(--http-port "${HTTP_PORT:-8000}" --grpc-port "${GRPC_PORT:-8001}" --metrics-port "${METRICS_PORT:-8002}")
url=127.0.0.1:${GRPC_PORT:-8001}
collections=${COLLECTION_PORT:-8010}
store=${STORE_PORT:-8011}

step() { printf '\n\033[1m== %s\033[0m (%s s)\n' "$*" "$SECONDS"; }

# wait_for PORT: until something listens there.
wait_for() {
  for _ in {1..100}; do
    (: > "/dev/tcp/127.0.0.1/$1") 2> /dev/null && return
    sleep 0.1
  done
  echo "error: nothing listens on port $1" >&2
  exit 3
}

for port in "${ports[@]}" "$collections" "$store"; do
  [[ $port == --* ]] || ! (: > "/dev/tcp/127.0.0.1/$port") 2> /dev/null || {
    echo "error: port $port is in use; choose others: HTTP_PORT=9000 GRPC_PORT=9001 METRICS_PORT=9002" \
      "COLLECTION_PORT=9010 STORE_PORT=9011 make people" >&2
    exit 3
  }
done

stop() {
  server down --grpc-port "${GRPC_PORT:-8001}" > /dev/null 2>&1 || true
  kill "${services[@]}" 2> /dev/null || true
}
services=()
trap stop EXIT
rm -rf "$out"
mkdir -p "$out/keys"

step "1. train a model that finds people"
mask_model=$(train fit examples/people.yaml "output=$out/runs" | tee >(cat >&2) | tail -n 1)

step "2. load two labelled groups from a collection service"
for group in walkers walkers_test; do
  python -m tests.collection_server "$data/$group" --port "$collections" &
  service=$!
  services+=("$service")
  wait_for "$collections"
  train collect --url "http://127.0.0.1:$collections" --group "$group" --output "$out/collections/$group"
  kill "$service"
  wait "$service" 2> /dev/null || true
done

step "3. segment the people into PostgreSQL, and cut them out"
if [[ -z ${TRITONKIT_MASKS:-} ]]; then
  python -m scripts.demo.postgres "$PWD/$out/postgres" > "$out/database" &
  services+=($!)
  until [[ -s $out/database ]]; do sleep 0.2; done
  TRITONKIT_MASKS=$(< "$out/database")
fi
export TRITONKIT_MASKS # not an argument, which others on this machine could read
for group in walkers walkers_test; do
  train segment "$out/collections/$group" --with "$mask_model" --min-share 0.0015
  train crop "$out/collections/$group" --output "$out/crops/$group"
done

step "4. train the classifier on the crops"
classifier=$(train fit examples/walkers.yaml "data.path=$out/crops/walkers" "output=$out/runs" \
  | tee >(cat >&2) | tail -n 1)
train test "$classifier" --data "$out/crops/walkers_test" --json > "$out/test.json"

step "5. publish both models, and a pipeline of the two"
builder export "$mask_model" --repository "$out/built"
builder export "$classifier" --repository "$out/built"
builder pipeline examples/people_pipeline.yaml --repository "$out/built"

step "6. package, sign and push"
openssl ecparam -name prime256v1 -genkey -noout -out "$out/keys/private.pem"
openssl ec -in "$out/keys/private.pem" -pubout -out "$out/keys/public.pem" 2> /dev/null
builder package people --repository "$out/built" --output "$out/packages"
builder sign "$out/packages/people-1.zip" --key "$out/keys/private.pem"
python examples/model_store.py "$out/store" --port "$store" &
services+=($!)
wait_for "$store"
builder push "$out/packages/people-1.zip" "http://127.0.0.1:$store" --name people --version 1.0.0

step "7. pull, check the signature, and install"
builder pull "http://127.0.0.1:$store" people@^1.0 --install --repository "$out/model_repository" \
  --require-signed "$out/keys/public.pem"
builder check "$out/model_repository"

step "8. serve the pipeline, and infer"
server up --repository "$out/model_repository" "${ports[@]}" --require-signed "$out/keys/public.pem"
client infer "$data/scenes" --model people --url "$url" --output "$out/scenes.jsonl" --overlays "$out/overlays"

step "9. check the answers, and write the page"
python -m scripts.demo.people_page "$out"
printf '\nIn %s s. Open %s/index.html in a browser.\n' "$SECONDS" "$out"
