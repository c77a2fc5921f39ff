#!/bin/sh
# A tour on eight A100s that are not there: MPS, MIG and memory shares, with things breaking.
#
# Needs partitiond on the PATH (or PARTITIOND=/path/to/it), curl and a C compiler. Everything is in
# a temporary folder, on free ports of 127.0.0.1, and gone at the end. docs/how-to/simulate.md
# tells the same as a story.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
daemon=
. "$here/../common.sh"
# Many plans need as few GPUs: counted in work, not in time, the search finds the same one anywhere.
export PARTITIOND_PLANNER__DETERMINISTIC=true PARTITIOND_STATE_DIR="$folder/state" PARTITIOND_CACHE_DIR="$folder/cache"

end_all() {
    if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
        kill "$daemon"
        wait "$daemon" || true
    fi
}

run() { printf '\n$ partitiond %s\n' "$*"; "$partitiond" "$@" 2>&1; }

ports() {
    "$python" -c 'import socket
a, b = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])'
}

# look EXPRESSION: what look.py says of the daemon.
look() { "$python" "$here/look.py" "$1"; }

# until_true WORDS EXPRESSION: waits until look.py says so.
until_true() { "$python" "$here/look.py" "$2" "$1" || { "$partitiond" status; fail "see above"; }; }

# serve NAME: a daemon with a state folder of that name, ready to be asked.
serve() {
    set -- "$1" $(ports)
    export PARTITIOND_STATE_DIR="$folder/$1" PARTITIOND_CONTROL__PORT="$2" PARTITIOND_PROXY__PORT="$3"
    "$partitiond" serve > "$folder/$1.log" 2>&1 &
    daemon=$!
    until_true "the daemon is ready" "ready() or not lives($daemon)"
    [ "$(look "lives($daemon)")" = True ] || fail "the daemon ended: see $folder/$1.log"
}

down() {
    run down
    wait "$daemon" || fail "the daemon ended with status $?"
    daemon=
}

ask() {
    printf '\n$ curl .../v1/completions -d {"model": "%s", ...}\n' "$1"
    curl --silent --show-error --fail --max-time 60 "http://127.0.0.1:$PARTITIOND_PROXY__PORT/v1/completions" \
        -H 'Content-Type: application/json' -d "{\"model\": \"$1\", \"prompt\": \"Hello\", \"max_tokens\": 8}"
    echo
}

# begin_load MODEL: what comes next happens in the middle of 12 s of load, and end_load counts.
begin_load() {
    echo "$ python -m loadgen --model $1 --rate 15 --duration 12 ... &"
    start_load "$1" "$PARTITIOND_PROXY__PORT" 12
    sleep 1 # so that the harm comes in the middle of it; nothing rests on how far it is
}

host_as_json() { "$partitiond" tools simulate break "$folder/$1" --json; }

say "Eight A100s, two of them in MIG mode"
run tools simulate create "$here/host.json" --out "$folder/host"
export PARTITIOND_GPU__SIMULATED_HOST="$folder/host"
host_as_json host > "$folder/before.json"
run devices

say "Eight models: MPS shares, and MIG slices for those that hardware has to keep apart"
serve state
run up -f "$here/fleet.toml" --no-profile
run status
run devices show "$(look "replicas('opt-2.7b')[0].device_id")"
ask opt-125m
ask opt-2.7b

say "Goodput beside the plan: engines step as it says of their model, share and neighbours"
echo "$ python -m loadgen --model opt-1.3b --rate 6 --prompt-tokens 512 --output-tokens 256 ..."
start_load opt-1.3b "$PARTITIOND_PROXY__PORT" 20 6 512 256
end_goodput 6

say "An engine is killed under load: it is started again"
set -- $(look '"{0.replica_id} {0.pid} {0.device_id}".format(replicas("opt-125m")[0])')
replica=$1 pid=$2 device=$3
begin_load opt-125m
echo "$ kill -9 $pid    # $replica"
kill -9 "$pid"
until_true "$replica is replaced" "replaced('$replica', $pid)"
end_load
run status

say "A fault under MPS reaches every client of that GPU: all are started again"
pid=$(look "next(r.pid for r in replicas('opt-125m') if r.replica_id == '$replica')")
begin_load opt-125m
run tools simulate break "$folder/host" mps fault --gpu "$device"
until_true "the GPU's engines are replaced" "replaced('$replica', $pid)"
end_load
run status

say "The GPU falls off the bus: its replicas move"
begin_load opt-125m
run tools simulate break "$folder/host" lose --gpu "$device"
until_true "the replicas serve elsewhere" \
    "all_serve() and '$device' not in {r.device_id for r in replicas()}"
end_load
run devices
run status
run tools simulate break "$folder/host" restore --gpu "$device"
until_true "the GPU answers" "'is lost' not in device('$device').cordon_reason"
run devices cordon "$device" --lift

say "Somebody else's process, and a cordon"
run tools simulate break "$folder/host" process 4711 20GiB --gpu 5
until_true "the daemon sees it" "device('5').foreign"
run devices cordon "$device" --reason "fan is replaced on Monday"
run devices
run devices cordon "$device" --lift
run tools simulate break "$folder/host" process 4711 0 --gpu 5

say "A model sleeps, and the next request wakes it"
run models sleep qwen2.5-1.5b
until_true "it sleeps" "{r.state for r in replicas('qwen2.5-1.5b')} == {'asleep'}"
ask qwen2.5-1.5b
until_true "it is awake" "all_serve()"

say "Down: the host is as it was"
down
host_as_json host > "$folder/after.json"
cmp "$folder/before.json" "$folder/after.json" || fail "the host is not as it was"
[ "$("$python" -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["entries"]))' "$folder/state/devices.json")" = 0 ] ||
    fail "the device journal is not empty"
echo "No memory held, no process, no GPU instance, MIG as before, nothing in the device journal."

say "A host without MPS's control program: memory shares"
run tools simulate create a100-40gb-x8 --out "$folder/plain"
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
cat <<'END'
Next:
  make demo                      the same loop on this machine, with a real engine
  partitiond plan --from FILE    a plan for GPUs and models of yours (docs/how-to/plan.md)
  docs/how-to/simulate.md        this tour line by line, and hosts of your own
END
