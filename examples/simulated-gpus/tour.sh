#!/bin/sh
# A tour on eight A100s that are not there: MPS, MIG and memory shares, with things breaking.
#
# Needs partitiond on the PATH (or PARTITIOND=/path/to/it), curl and a C compiler. Everything is in
# a temporary folder, on free ports of 127.0.0.1, and gone at the end. docs/how-to/simulate.md
# tells the same as a story.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
partitiond=${PARTITIOND:-partitiond}
python=${PYTHON:-python3}
folder=$(mktemp -d "${TMPDIR:-/tmp}/tour.XXXXXX")
daemon=

# Settings of the caller's own daemon are not meant here.
for name in $(env | sed -n 's/^\(PARTITIOND_[A-Z_]*\)=.*/\1/p'); do unset "$name"; done
# Many plans need as few GPUs: counted in work, not in time, the search finds the same one anywhere.
export PARTITIOND_CPU__ENABLED=false PARTITIOND_PLANNER__DETERMINISTIC=true
export PARTITIOND_STATE_DIR="$folder/state" PARTITIOND_CACHE_DIR="$folder/cache" COLUMNS="${COLUMNS:-100}"

finish() {
    status=$?
    trap - EXIT INT TERM
    if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
        kill "$daemon"
        wait "$daemon" || true
    fi
    if [ "$status" -eq 0 ]; then
        rm -rf "$folder"
    else
        tail -n 20 "$folder"/*.log >&2 || true
        echo "The tour failed; what it left to look at: $folder" >&2
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n== %s\n' "$*"; }
run() { printf '\n$ partitiond %s\n' "$*"; "$partitiond" "$@" 2>&1; }
fail() { echo "tour: $*" >&2; exit 1; }

ports() {
    "$python" -c 'import socket
a, b = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])'
}

# serve NAME: a daemon with a state folder of that name, ready to be asked.
serve() {
    set -- "$1" $(ports)
    export PARTITIOND_STATE_DIR="$folder/$1" PARTITIOND_CONTROL__PORT="$2" PARTITIOND_PROXY__PORT="$3"
    "$partitiond" serve > "$folder/$1.log" 2>&1 &
    daemon=$!
    until "$partitiond" status > /dev/null 2>&1; do
        kill -0 "$daemon" 2>/dev/null || fail "the daemon ended: see $folder/$1.log"
        sleep 0.2
    done
}

down() {
    run down
    wait "$daemon" || fail "the daemon ended with status $?"
    daemon=
}

# pick EXPRESSION: something of `partitiond status --json`, as d.
pick() { "$partitiond" status --json | "$python" -c "import json, sys; d = json.load(sys.stdin); print($1)"; }

# until_true SECONDS WORDS COMMAND...: wait until the command succeeds.
until_true() {
    limit=$1 words=$2
    shift 2
    until "$@"; do
        limit=$((limit - 1))
        [ "$limit" -gt 0 ] || { "$partitiond" status; fail "waited in vain until $words"; }
        sleep 1
    done
}
all_serve() { [ "$(pick 'all(r["state"] == "serving" for r in d["replicas"]) and len(d["replicas"]) > 0')" = True ]; }
moved_off() { [ "$(pick "all(r['device_id'] != '$1' for r in d['replicas'])")" = True ] && all_serve; }
replaced() { [ "$(pick "any(r['replica_id'] == '$1' and r['pid'] not in (None, $2) for r in d['replicas'])")" = True ] && all_serve; }
sees_a_stranger() { "$partitiond" devices | grep -q "foreign process"; }
asleep() { [ "$(pick "{r['state'] for r in d['replicas'] if r['model'] == '$1'} == {'sleeping'}")" = True ]; }

ask() {
    printf '\n$ curl .../v1/completions -d {"model": "%s", ...}\n' "$1"
    curl --silent --show-error --fail --max-time 60 "http://127.0.0.1:$PARTITIOND_PROXY__PORT/v1/completions" \
        -H 'Content-Type: application/json' -d "{\"model\": \"$1\", \"prompt\": \"Hello\", \"max_tokens\": 8}"
    echo
}

host_as_json() { "$partitiond" simulate show "$folder/$1" --json; }

say "Eight A100s, two of them in MIG mode"
run simulate create "$here/host.json" --out "$folder/host"
export PARTITIOND_GPU__SIMULATED_HOST="$folder/host"
host_as_json host > "$folder/before.json"
run devices

say "Eight models: MPS shares, and MIG slices for those that hardware has to keep apart"
serve state
run up -f "$here/fleet.toml" --no-profile
run status
run mig show --gpu 6
ask opt-125m
ask opt-2.7b

say "An engine is killed: it is started again"
replica=$(pick 'next(r["replica_id"] for r in d["replicas"] if r["partition"]["mode"] == "mps")')
pid=$(pick "next(r['pid'] for r in d['replicas'] if r['replica_id'] == '$replica')")
device=$(pick "next(r['device_id'] for r in d['replicas'] if r['replica_id'] == '$replica')")
echo "kill -9 $pid ($replica)"
kill -9 "$pid"
until_true 60 "$replica is replaced" replaced "$replica" "$pid"

say "A fault under MPS reaches every client of that GPU: all are started again"
pid=$(pick "next(r['pid'] for r in d['replicas'] if r['replica_id'] == '$replica')")
run simulate break "$folder/host" mps fault --gpu "$device"
until_true 90 "the GPU's engines are replaced" replaced "$replica" "$pid"

say "The GPU falls off the bus: its replicas move"
run simulate break "$folder/host" lose --gpu "$device"
until_true 90 "the replicas serve elsewhere" moved_off "$device"
run devices
run status
run simulate break "$folder/host" restore --gpu "$device"
sleep 1
run devices uncordon "$device"

say "Somebody else's process, and a cordon"
run simulate break "$folder/host" process 4711 20GiB --gpu 5
until_true 60 "the daemon sees it" sees_a_stranger
run devices cordon "$device" --reason "fan is replaced on Monday"
run devices
run devices uncordon "$device"
run simulate break "$folder/host" process 4711 0 --gpu 5

say "A model sleeps, and the next request wakes it"
run sleep qwen2.5-1.5b
until_true 60 "it sleeps" asleep qwen2.5-1.5b
ask qwen2.5-1.5b
until_true 60 "it is awake" all_serve

say "Down: the host is as it was"
down
host_as_json host > "$folder/after.json"
cmp "$folder/before.json" "$folder/after.json" || fail "the host is not as it was"
[ "$("$python" -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["entries"]))' "$folder/state/devices.json")" = 0 ] ||
    fail "the device journal is not empty"
echo "No memory held, no process, no GPU instance, MIG as before, nothing in the device journal."

say "MIG by hand, without a daemon"
run mig plan --geometry 3g.40gb@4,2g.20gb,1g.10gb --gpu 7
run mig apply --geometry 3g.40gb@4,2g.20gb,1g.10gb --gpu 7 --yes
run mig show --gpu 7
run mig show --gpu 7 --export -
run mig apply --geometry none --gpu 7 --replace --yes
host_as_json host | cmp "$folder/before.json" - || fail "the host is not as it was"

say "A host without MPS's control program: memory shares"
run simulate create a100-40gb-x8 --out "$folder/plain"
rm "$folder/plain/bin/nvidia-cuda-mps-control"
export PARTITIOND_GPU__SIMULATED_HOST="$folder/plain"
host_as_json plain > "$folder/before.json"
serve plain-state
for model in smollm2-135m opt-125m; do
    run models add "$model" --weights dummy --engine-kind simulated --no-auto --demand 5
done
"$partitiond" plan > /dev/null
run apply
run status
ask opt-125m
run doctor || true
down
host_as_json plain | cmp "$folder/before.json" - || fail "the host is not as it was"

say "That was the tour"
