#!/bin/bash
# Runs partitiond under a real systemd, in namespaces of its own, and leaves nothing behind.
#
#   sudo deploy/check/run-under-systemd.sh [PYTHON]
#
# PYTHON is an interpreter with partitiond installed (default .venv/bin/python of the checkout).
# systemd becomes process 1 of a new PID namespace, on an overlay of this host's root that is thrown
# away, in a cgroup of its own and without network. There `partitiond setup` installs the service;
# checks.py beside this file starts, reloads, restarts, kills and removes it, with simulated engines
# running. Prints one line for each check; ends with 0 when all hold, 77 when this host cannot do it
# (with the reason), and 1 otherwise.
set -u
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
python=${1:-$repository/.venv/bin/python}
seconds=${SECONDS_ALLOWED:-600}

cannot() { echo "cannot run under systemd here: $*"; exit 77; }
[ "$(id -u)" = 0 ] || cannot "it takes root"
[ -x /lib/systemd/systemd ] || cannot "systemd is not installed"
[ -x "$python" ] || cannot "there is no interpreter $python"
case $repository/ in /tmp/*) cannot "the checkout is below /tmp, and systemd gets a /tmp of its own" ;; esac
command -v dbus-daemon >/dev/null || cannot "dbus is not installed"
unshare --pid --fork --mount --cgroup --ipc --uts --net true 2>/dev/null \
    || cannot "namespaces may not be made (in a container: run it with --privileged)"
cgroups=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
[ -n "$cgroups" ] || cannot "there is no cgroup v2"
# Ray for the checks of several hosts, from this machine's cache or its package sources.
ray=$("$python" -m partitiond setup engine install ray --json 2>/dev/null |
    sed -n 's/.*"python": "\([^"]*\)".*/\1/p') || ray=
kernels=$("$python" -c 'from partitiond import native; print(native.folder(native.PLANNER))')
cell=$cgroups/partitiond-check-$$
mkdir "$cell" 2>/dev/null || cannot "$cgroups takes no cgroups"

work=$(mktemp -d)
mkdir "$work/out" "$work/cell"
sweep() {
    [ -e "$cell/cgroup.kill" ] && echo 1 >"$cell/cgroup.kill" 2>/dev/null
    for _ in $(seq 50); do
        find "$cell" -depth -type d -exec rmdir {} + 2>/dev/null
        [ -d "$cell" ] || break
        sleep 0.1
    done
    rm -rf "$work"
}
trap sweep EXIT

inside() {
    set -e
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$work/cell"
    mkdir "$work"/cell/{upper,work,root}
    root=$work/cell/root
    mount -t overlay overlay -o "lowerdir=/,upperdir=$work/cell/upper,workdir=$work/cell/work" "$root"
    mount -t proc proc "$root/proc"
    # What is not in a namespace stays as it is: kernel parameters, modules, devices.
    mount --bind "$root/proc/sys" "$root/proc/sys" && mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    for folder in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$root/$folder"; done
    chmod 1777 "$root/tmp"
    mkdir -p "$root"/dev/{shm,pts} "$root/out"
    mount -t tmpfs tmpfs "$root/dev/shm"
    for node in null zero full random urandom tty; do
        touch "$root/dev/$node" && mount --bind "/dev/$node" "$root/dev/$node"
    done
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s pts/ptmx "$root/dev/ptmx" # as in containers; PrivateDevices= asks for it
    for number in 0:stdin 1:stdout 2:stderr; do
        ln -s "/proc/self/fd/${number%%:*}" "$root/dev/${number##*:}"
    done
    mount --bind "$work/out" "$root/out"
    touch "$root/dev/console" "$root/out/console.log"
    mount --bind "$root/out/console.log" "$root/dev/console"
    # An interpreter below a home folder must be open to the service's user; this is the overlay.
    # (The venv's own link, and what it points to; and those of Ray's.)
    for path in "$python" "$(readlink -f "$python")" ${ray:+"$ray" "$(readlink -f "$ray")"}; do
        while [ "$path" != / ]; do
            path=$(dirname "$path") && chmod o+x "$root$path"
        done
    done
    rm -rf "$root"/etc/systemd/system/*.wants "$root/etc/partitiond"
    # The planner's loops, if they are compiled: systemd gives the folder to the service's user.
    mkdir -p "$root/var/cache/partitiond/native"
    [ ! -d "$kernels" ] || cp -r "$kernels" "$root/var/cache/partitiond/native/"
    for unit in systemd-udevd.service systemd-sysctl.service systemd-modules-load.service \
        systemd-remount-fs.service systemd-timesyncd.service; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    cat >"$root/etc/systemd/system/check.service" <<UNIT
[Unit]
After=dbus.service systemd-logind.service
Wants=dbus.service systemd-logind.service
[Service]
Type=oneshot
WorkingDirectory=$repository
Environment=PYTHONDONTWRITEBYTECODE=1 "ENGINE=${ENGINE:-}" "MODEL=${MODEL:-}" "ARGS=${ARGS:-}" "RAY=$ray"
ExecStart=$python -P $here/${PROGRAM:-checks.py} /out ${CHECKS:-}
StandardOutput=file:/out/checks.log
StandardError=inherit
# A scope below user.slice would otherwise end with it.
KillMode=process
ExecStopPost=/bin/systemctl exit --force --force 0
UNIT
    printf '[Unit]\nRequires=check.service\n' >"$root/etc/systemd/system/check.target"
    mkdir "$root/oldroot"
    cd "$root"
    pivot_root . oldroot
    umount -l /oldroot
    # As on a host: what is mounted later shows in services that run. systemd skips this in a container.
    mount --make-rshared /
    ip link set lo up
    exec env -i container=partitiond PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --unit=check.target --show-status=0 --log-target=console
}
export -f inside
export work python repository here ray kernels

(
    echo "$BASHPID" >"$cell/cgroup.procs"
    exec timeout --signal=KILL "$seconds" unshare --pid --fork --kill-child --mount --cgroup \
        --ipc --uts --net bash -c inside
) </dev/null >"$work/out/start.log" 2>&1

if [ ! -s "$work/out/checks.log" ]; then
    cat "$work/out/start.log" "$work/out/console.log" 2>/dev/null | tail -30
    cannot "systemd did not come up (its words are above)"
fi
cat "$work/out/checks.log"
if [ -n "${KEEP:-}" ]; then cp -r "$work/out" "$KEEP"; fi
[ "$(tail -1 "$work/out/checks.log")" = "all checks hold" ]
