# What all tours share; a tour sources it. Needs: here, the folder of the tour.
#
# A tour defines end_all, which ends whatever it began and is called however the tour ends.

# Settings of the caller's own daemon are not meant here.
for name in $(env | sed -n 's/^\(PARTITIOND_[A-Z_]*\)=.*/\1/p'); do unset "$name"; done

partitiond=${PARTITIOND:-partitiond}
python=${PYTHON:-python3}
folder=$(mktemp -d "${TMPDIR:-/tmp}/tour.XXXXXX")
load=
export PARTITIOND_CPU__ENABLED=false COLUMNS="${COLUMNS:-100}"

say() { printf '\n== %s\n' "$*"; }
fail() { echo "tour: $*" >&2; exit 1; }

# start_load MODEL PORT SECONDS [RATE PROMPT OUTPUT]: fifteen short requests a second, or as many and as
# long as said, beside what comes next.
start_load() {
    "$python" -m loadgen --url "http://127.0.0.1:$2" --model "$1" --rate "${4:-15}" --arrivals constant \
        --prompt-tokens "${5:-8}" --output-tokens "${6:-8}" --slo-ttft 0.75 --slo-tpot 0.04 \
        --warmup 0 --duration "$3" --allow-saturated --json \
        --save "$folder/load.run" > "$folder/load.json" 2> "$folder/load.log" &
    load=$!
    until_true "the load has begun" "sends($load)"
}

# end_load WHERE: waits for the last of them, and counts.
end_load() {
    wait "$load" || fail "loadgen ended with status $?: $(tail -n 3 "$folder/load.log")"
    load=
    "$python" -c 'import json, sys
report = json.load(open(sys.argv[1]))
failed = sum(report[kind] for kind in ("refused", "errors", "timeouts"))
print("\nfailed requests%s:" % sys.argv[2], failed, "of", report["completed"] + failed)' "$folder/load.json" "${1:-}"
}

# end_goodput RATE: waits for the last of them, and shows goodput beside the rate that is planned for.
end_goodput() {
    wait "$load" || fail "loadgen ended with status $?: $(tail -n 3 "$folder/load.log")"
    load=
    "$python" -c 'import json, sys
good = json.load(open(sys.argv[1]))["goodput_req_per_s"]
print("\ngoodput: %.3g of %s requests/s that are planned for" % (good, sys.argv[2]))' "$folder/load.json" "$1"
}

finish() {
    status=$?
    trap - EXIT INT TERM
    [ -z "$load" ] || kill "$load" 2>/dev/null || true
    end_all
    wait
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
