#!/bin/sh
# A tour of three hosts on one machine: one plan over all, one host lost, repaired, and back.
#
# Needs partitiond on the PATH (or PARTITIOND=/path/to/it) and Python. Ray is fetched into the cache
# the first time. Each host has a state folder, two simulated A100s, an address (127.0.0.4, .2, .3)
# and Ray's processes. All of it is in a temporary folder, and gone at the end.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/../common.sh"
export PARTITIOND_PLANNER__TIME_LIMIT_SECONDS=3
# Hosts are lost after minutes; here nobody wants to wait. And engines here run as this user, which
# is refused elsewhere, for they could read the token that all hosts trust.
export PARTITIOND_HOST__SILENT_SECONDS=4 PARTITIOND_HOST__LOST_SECONDS=8
export PARTITIOND_CLUSTER__TRUST_ENGINES=true PARTITIOND_DAEMON__KEEP_ENGINES_ON_EXIT=true

# on HOST COMMAND...: runs a command with that host's settings.
on() {
    name=$1; shift
    case $name in head) number=4 ;; gpu-1) number=2 ;; gpu-2) number=3 ;; esac
    set -- env "PARTITIOND_STATE_DIR=$folder/$name" "PARTITIOND_HOST__NAME=$name" \
        "PARTITIOND_GPU__SIMULATED_HOST=$folder/gpus-$name" \
        "PARTITIOND_CLUSTER__ADDRESS=127.0.0.$number" \
        "PARTITIOND_CLUSTER__PORT=$(cat "$folder/ray-$name")" \
        "PARTITIOND_PROXY__PEERS_PORT=$(($(cat "$folder/ray-$name") + 7))" \
        "PARTITIOND_PROXY__PORT=$(cat "$folder/proxy-$name")" \
        "PARTITIOND_CONTROL__PORT=$(cat "$folder/control-$name")" "$@"
    ${replace:-} "$@"
}

# begin HOST COMMAND... &: the same, so that $! is the command itself.
begin() { replace=exec; on "$@"; }

run() { printf '\nhead$ partitiond %s\n' "$*"; on head "$partitiond" "$@" 2>&1; }

# look EXPRESSION; until_true WORDS EXPRESSION: what look.py says of the head's daemon.
look() { on head "$python" "$here/../simulated-gpus/look.py" "$1"; }
until_true() {
    on head "$python" "$here/../simulated-gpus/look.py" "$2" "$1" ||
        { on head "$partitiond" hosts; on head "$partitiond" status; fail "see above"; }
}

# mark WORDS: what the tour does, for the picture.
mark() { echo "$*" >> "$folder/marks"; }

# ask_all HOST...: a request for each model at the endpoint of each host; which replica answered.
ask_all() {
    "$python" - "$folder" "$@" <<'END'
import json, pathlib, sys, urllib.request

for host in sys.argv[2:]:
    at = f"http://127.0.0.1:{(pathlib.Path(sys.argv[1]) / f'proxy-{host}').read_text()}/v1"
    with urllib.request.urlopen(f"{at}/models") as reply:
        models = [model["id"] for model in json.load(reply)["data"]]
    by = []
    for model in models:
        asked = {"model": model, "prompt": "Once upon a time", "max_tokens": 4}
        head = {"Content-Type": "application/json", "x-partitiond-debug": "1"}
        request = urllib.request.Request(f"{at}/completions", json.dumps(asked).encode(), head)
        with urllib.request.urlopen(request, timeout=60) as reply:
            by.append(reply.headers["x-partitiond-replica"])
    print(f"{host + ':':7} served by {', '.join(by)}")
END
}

# kill_below FOLDER: ends every process of a host at once, as a power cut does. Its state folder is
# in the command or the environment of each.
kill_below() {
    "$python" - "$1" <<'END'
import os, sys

import psutil

for process in psutil.process_iter():
    try:
        said = [*process.cmdline(), *process.environ().values()]
        if process.pid != os.getpid() and any(sys.argv[1] in word for word in said):
            process.kill()
    except psutil.Error:
        continue
END
}

end_all() { kill_below "$folder/"; }

# Ports that nothing listens on: an endpoint and a control API for each host, and 50 for its Ray.
"$python" - "$folder" <<'END'
import pathlib, socket, sys

folder = pathlib.Path(sys.argv[1])
held = []
for host in ("head", "gpu-1", "gpu-2"):
    for use in ("proxy", "control"):
        held.append(socket.create_server(("127.0.0.1", 0)))
        (folder / f"{use}-{host}").write_text(str(held[-1].getsockname()[1]))
first = 20000
for host in ("head", "gpu-1", "gpu-2"):
    while True:
        first += 100
        try:
            for port in range(first, first + 50):
                socket.create_server(("", port)).close()
        except OSError:
            continue
        (folder / f"ray-{host}").write_text(str(first))
        break
END

say "Three hosts with two A100s each; Ray is fetched the first time"
made=
for name in head gpu-1 gpu-2; do
    sed "s/HOST/$name/" "$here/host.json" > "$folder/$name.json" # whose name gives its GPUs their ids
    "$partitiond" tools simulate create "$folder/$name.json" --out "$folder/gpus-$name" > "$folder/create-$name.log" 2>&1 &
    made="$made $!"
done
"$python" -m partitiond.native planner > "$folder/kernels.log" 2>&1 & # half a minute the first time
kernels=$!
on head "$partitiond" setup engine install ray
for pid in $made; do wait "$pid" || fail "a host could not be made"; done

say "The head makes the token and its certificate; the others get a bundle each, and join"
printf '\nhead$ partitiond serve --cluster\n'
begin head "$partitiond" serve --cluster > "$folder/head.log" 2>&1 &
head=$!
begin head "$python" "$here/picture.py" watch "$folder/seen" "$folder/marks" > "$folder/watch.log" 2>&1 &
watching=$!
until_true "the daemon is ready" "ready() or not lives($head)"
[ "$(look "lives($head)")" = True ] || fail "the head's daemon ended"
join() {
    on head "$partitiond" host certificate --for "$1" --address "$2" --out "$folder" > "$folder/bundle.log" 2>&1
    printf '\n%s$ partitiond host join 127.0.0.4:%s\n' "$1" "$(cat "$folder/ray-head")"
    begin "$1" "$partitiond" host join --from "$folder/$1.bundle" "127.0.0.4:$(cat "$folder/ray-head")" > "$folder/$1.log" 2>&1 &
    mark "$1 joins"
}
join gpu-1 127.0.0.2
join gpu-2 127.0.0.3
gpu_2=$!
until_true "all hosts answer" "[h.state for h in hosts()] == ['fine'] * 3"
run hosts
run devices

say "One plan over all of them: every model outlives the loss of a host"
wait "$kernels" || fail "the planner's loops are not compiled"
mark "up"
run up -f "$here/fleet.toml" --no-profile
run status

say "The endpoint of each host serves every model, wherever it runs"
until_true "all endpoints reach each other" "not any(h.unreached for h in hosts())"
ask_all head gpu-1 gpu-2

say "Goodput beside the plan: engines step as it says of their model, share and neighbours"
start_load llama-3.2-1b "$(cat "$folder/proxy-head")" 20 5 512 256
end_goodput 5

say "gpu-2 dies under load: its Ray, its agent, its engines and its endpoint"
start_load opt-125m "$(cat "$folder/proxy-head")" 20
mark "gpu-2 dies"
kill_below "$folder/gpu-2"
wait "$gpu_2" || true
until_true "gpu-2 is silent" "host('gpu-2').state in ('silent', 'lost')"
run hosts
until_true "gpu-2 is lost" "host('gpu-2').state == 'lost'"
until_true "the plan is repaired" "all_serve() and 'gpu-2' not in {r.host for r in replicas()}"
run status
end_load " at the endpoint of head"
ask_all head gpu-1

say "gpu-2 comes back"
join gpu-2 127.0.0.3
until_true "gpu-2 answers" "host('gpu-2').state == 'fine'"
run hosts
run events --limit 12

if [ -n "${PICTURE:-}" ]; then
    kill "$watching" || fail "nobody watched: $(tail -n 1 "$folder/watch.log")"
    wait "$watching" 2>/dev/null || true
    "$python" "$here/picture.py" draw "$folder/seen" "$folder/load.run" "$PICTURE"
    say "A picture of it is in $PICTURE"
fi

say "Down: the engines of all hosts end, and each host leaves"
run down
wait "$head" || fail "the head's daemon ended with status $?"
for name in gpu-1 gpu-2; do
    on "$name" "$partitiond" down > "$folder/leave-$name.log" 2>&1 &
    echo $! > "$folder/leave-$name"
done
for name in gpu-1 gpu-2; do
    printf '\n%s$ partitiond down\n' "$name"
    wait "$(cat "$folder/leave-$name")" || fail "$name did not leave"
    cat "$folder/leave-$name.log"
done

say "That was the tour"
cat <<'END'
Next:
  docs/how-to/several-hosts.md   hosts of yours, from bare machines to serving
  make tour-hosts PICTURE=FILE   the same, and a picture of it as SVG
  make demo                      the whole loop on this machine, with a real engine
END
