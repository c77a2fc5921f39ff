"""Lists what a setup puts on a host, in order, from the facts about the host.

Each step may rely on the steps before it: the user is made before a unit names its manager, and
units are read before they are enabled.
"""

import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from partitiond.cli.setup.cluster_units import (
    DROP_IN,
    ENVIRONMENT,
    JOINED,
    RAY_SERVICE,
    TLS,
    TOKEN,
    BundleStep,
    drop_in_text,
    environment_text,
)
from partitiond.cli.setup.host import (
    ENGINE_USER,
    IMAGE_BIN,
    USER,
    ClusterPlace,
    SetupFacts,
    SetupHost,
    shipped,
)
from partitiond.cli.setup.isolation_groups import (
    for_group,
    group_users,
    installed_groups,
    users_text,
)
from partitiond.cli.setup.mps_units import MPS_FOLDER, MPS_SERVICE, MPS_SOCKET, mps_unit
from partitiond.cli.setup.steps import CommandStep, FileStep, SetupStep
from partitiond.cluster.ray_environment import managed_ray
from partitiond.core.model.isolation_group import of_group

UNITS: Final = "/etc/systemd/system"
SERVICE: Final = "partitiond.service"
MIG_SOCKET: Final = "partitiond-mig.socket"
ENGINE_SOCKET: Final = "partitiond-engine.socket"
ENGINE_SERVICE: Final = "partitiond-engine@.service"
ENGINE_FOLDER: Final = "/run/partitiond-engine"
DEFAULT_BIN: Final = str(IMAGE_BIN)
STATE_DIRS: Final = ("/var/lib/partitiond", "/var/cache/partitiond")
ENGINE_CACHE: Final = "/var/cache/partitiond-engine"
SERVICE_ENVIRONMENT: Final = (
    "PARTITIOND_STATE_DIR=/var/lib/partitiond",
    "PARTITIOND_CACHE_DIR=/var/cache/partitiond",
    "PARTITIOND_RUN_DIR=/run/partitiond",
    "PARTITIOND_NATIVE_DIR=/var/cache/partitiond/native",
    "HOME=/var/lib/partitiond",
)
"""Environment as in the unit, for commands that are run as the daemon's user."""

CONFIG_TEXT: Final = """\
# Settings of partitiond; `partitiond setup config show` lists them all and where each came from.
# State, cache and run folder are set by the service's unit.

# [proxy]
# host = "0.0.0.0"        # beyond loopback only with keys:
# require_keys = true
"""


def all_steps(host: SetupHost, bin_dir: Path | None) -> tuple[SetupStep, ...]:
    """Return the steps of every setup that this host may have had, to take them back."""
    service = host.file(f"{UNITS}/{SERVICE}")
    text = service.read_text(encoding="utf-8") if service.exists() else ""
    found = re.search(r"^ExecStart=(\S+)/partitiond ", text, re.MULTILINE)
    own = {user.removeprefix(f"{ENGINE_USER}-") for user in group_users(host)}
    facts = SetupFacts(
        gpu=True,
        mig=True,
        engine=False,
        engine_user=True,
        bin_dir=bin_dir or Path(found[1] if found else DEFAULT_BIN),
        persistenced=False,
        isolation_groups=tuple(sorted(own.union(installed_groups(host, UNITS)))),
        cluster=ClusterPlace(),
    )
    return steps_for(facts, host)


def steps_for(facts: SetupFacts, host: SetupHost) -> tuple[SetupStep, ...]:
    """Return all steps in the order of doing them; they are undone in the reverse order."""
    return (
        *_user(host),
        *_folders(host),
        *_units(facts),
        *_engines(facts, host),
        *(step for group in facts.isolation_groups for step in _group(group, facts, host)),
        *(step for group in ("", *facts.isolation_groups) for step in _mps(group, facts)),
        *_gpu(facts),
        *_cluster(facts, host),
        CommandStep(
            "reload-units",
            "systemd reads the units",
            ("systemctl", "daemon-reload"),
            done=lambda h: not _stale_units(h),
        ),
        *_persistence(facts),
        *_engine(facts),
        *_enable(facts, host),
    )


def _where(host: SetupHost) -> tuple[str, ...]:
    """Return the option by which systemd's programs work on an image."""
    return () if host.root == Path("/") else (f"--root={host.root}",)


def _user(host: SetupHost) -> Sequence[SetupStep]:
    return (
        FileStep(
            "sysusers",
            "description of the users of the daemon and its engines",
            "/etc/sysusers.d/partitiond.conf",
            shipped("sysusers.d/partitiond.conf"),
        ),
        CommandStep(
            "user",
            f"users {USER} and {ENGINE_USER}, members of video and render",
            ("systemd-sysusers", *_where(host), "partitiond.conf"),
            done=lambda h: None not in {h.user_id(), h.user_id(ENGINE_USER)},
            live=False,
        ),
    )


def _folders(host: SetupHost) -> Sequence[SetupStep]:
    return (
        FileStep(
            "tmpfiles",
            "folders that are made at boot",
            "/etc/tmpfiles.d/partitiond.conf",
            shipped("tmpfiles.d/partitiond.conf"),
        ),
        CommandStep(
            "folders",
            "the same folders, now",
            ("systemd-tmpfiles", *_where(host), "--create", "partitiond.conf"),
            done=lambda h: (
                h.file("/etc/partitiond").is_dir()
                and (not h.live or h.file("/run/partitiond-mig").is_dir())
            ),
            live=False,
        ),
        FileStep(
            "config",
            "settings file, all of it commented out",
            "/etc/partitiond/config.toml",
            CONFIG_TEXT,
            keep=True,
        ),
    )


def _units(facts: SetupFacts) -> Sequence[SetupStep]:
    unit = _unit("partitiond.service", facts)
    return (FileStep("service", "the service", f"{UNITS}/{SERVICE}", unit),)


def _engines(facts: SetupFacts, host: SetupHost) -> Sequence[SetupStep]:
    """Start engines as a user of their own, which holds nothing of the daemon's; or no longer."""
    drop_in = f"{UNITS}/{SERVICE}.d/30-engines.conf"
    if not facts.engine_user:
        gone = CommandStep(
            "own-engines",
            "the daemon starts engines as its own user again, from its next start on",
            ("rm", "-f", str(host.file(drop_in))),
            done=lambda h: not h.file(drop_in).exists(),
            live=False,
        )
        return () if gone.done(host) else (gone,)
    return (
        *_engine_units("", facts),
        FileStep(
            "engine-user",
            "the daemon starts engines there",
            drop_in,
            shipped("systemd/partitiond.service.d/30-engines.conf"),
        ),
    )


def _group(group: str, facts: SetupFacts, host: SetupHost) -> Sequence[SetupStep]:
    """Start engines of an isolation group as its own user, by units that differ in names alone."""
    if not facts.engine_user:
        return ()
    user = of_group(ENGINE_USER, group)
    described = f"{user}.conf"
    return (
        FileStep(
            _key("sysusers", group),
            f"description of the user of isolation group {group}",
            f"/etc/sysusers.d/{described}",
            users_text(group),
        ),
        CommandStep(
            _key("user", group),
            f"user {user}",
            ("systemd-sysusers", *_where(host), described),
            done=lambda h: h.user_id(user) is not None,
            live=False,
        ),
        *_engine_units(group, facts),
    )


def _engine_units(group: str, facts: SetupFacts) -> Sequence[SetupStep]:
    units = (
        ("mount", mount_unit(of_group(ENGINE_FOLDER, group)), "partitiond-engine.mount"),
        ("socket", for_group(ENGINE_SOCKET, group), ENGINE_SOCKET),
        ("service", for_group(ENGINE_SERVICE, group), ENGINE_SERVICE),
    )
    return tuple(
        FileStep(
            _key(f"engine-{key}", group),
            f"engines as user {of_group(ENGINE_USER, group)} ({key})",
            f"{UNITS}/{name}",
            _unit(source, facts, group),
        )
        for key, name, source in units
    )


def _mps(group: str, facts: SetupFacts) -> Sequence[SetupStep]:
    """Start engines in MPS shares, and their MPS daemons, as the user of their group, too."""
    if not (facts.engine_user and facts.gpu):
        return ()
    units = (
        ("mount", mount_unit(of_group(MPS_FOLDER, group)), shipped("systemd/partitiond-mps.mount")),
        ("socket", MPS_SOCKET, mps_unit(MPS_SOCKET, shipped(f"systemd/{ENGINE_SOCKET}"))),
        ("service", MPS_SERVICE, mps_unit(MPS_SERVICE, shipped(f"systemd/{ENGINE_SERVICE}"))),
    )
    return tuple(
        FileStep(
            _key(f"mps-{key}", group),
            f"engines in MPS shares as user {of_group(ENGINE_USER, group)} ({key})",
            f"{UNITS}/{name if key == 'mount' else for_group(name, group)}",
            _of_host(text, facts, group),
        )
        for key, name, text in units
    )


def mount_unit(folder: str) -> str:
    """Name the unit of a mount as systemd asks for: by the folder."""
    return folder.strip("/").replace("-", "\\x2d").replace("/", "-") + ".mount"


def _unit(name: str, facts: SetupFacts, group: str = "") -> str:
    return _of_host(shipped(f"systemd/{name}"), facts, group)


def _of_host(text: str, facts: SetupFacts, group: str) -> str:
    """Return a unit's text with a group's names, and then with this host's folder of programs."""
    return for_group(text, group).replace(DEFAULT_BIN, str(facts.bin_dir))


def _key(step: str, group: str) -> str:
    """Return the key of a group's step; no group's name has the colon."""
    return f"{step}:{group}" if group else step


def _cluster(facts: SetupFacts, host: SetupHost) -> Sequence[SetupStep]:
    """Make the host one of several; or no longer."""
    drop_in, unit = f"{UNITS}/{SERVICE}.d/{DROP_IN}", f"{UNITS}/{RAY_SERVICE}"
    place = facts.cluster
    if place is None:
        files = (drop_in, unit, ENVIRONMENT)
        named = [str(host.file(file)) for file in files]
        how = "disable --now" if host.live else f"--root={host.root} disable"
        gone = CommandStep(
            "one-host",
            "this host is its own again, from the daemon's next start on",
            ("sh", "-c", f"systemctl {how} {RAY_SERVICE}; rm -f {' '.join(named)}"),
            done=lambda h: not any(h.file(file).exists() for file in files),
            live=False,
            cannot=lambda h: (
                "it obeys a head: run `partitiond down` first" if h.file(JOINED).exists() else ""
            ),
        )
        return () if gone.done(host) else (gone,)
    return (
        FileStep(
            "ray-service",
            "Ray, by which the hosts reach each other",
            unit,
            _unit(RAY_SERVICE, facts),
        ),
        FileStep(
            "cluster",
            f"this host obeys {place.head}" if place.head else "this host is the head of others",
            ENVIRONMENT,
            environment_text(place),
        ),
        FileStep(
            "cluster-service",
            "the service is this host's agent" if place.head else "the service plans for all hosts",
            drop_in,
            _of_host(drop_in_text(place), facts, ""),
        ),
        *_keys(facts, place),
    )


def _keys(facts: SetupFacts, place: ClusterPlace) -> Sequence[SetupStep]:
    """Give the host Ray, the token, and the certificate by which others know it."""
    make_folder = f"install -d -o {USER} -g {USER} -m 0700 {STATE_DIRS[0]}"
    steps: list[SetupStep] = []
    if facts.engine:
        make = tuple(f"install -d -o {USER} -g {USER} -m 0750 {folder}" for folder in STATE_DIRS)
        install = " ".join(as_daemon(facts.bin_dir, "setup", "engine", "install", "ray"))
        steps.append(
            CommandStep(
                "ray",
                "Ray in an environment of its own: 280 MB",
                ("sh", "-c", " && ".join((*make, install))),
                done=lambda h: _has_ray(h, facts.bin_dir),
                seconds=None,
            )
        )
    if place.bundle is not None:
        steps += [
            CommandStep(
                "state-folder",
                "the folder of the daemon's state",
                ("sh", "-c", make_folder),
                done=lambda h: h.file(STATE_DIRS[0]).is_dir(),
            ),
            BundleStep("bundle", "the fleet's token, and this host's certificate", place.bundle),
        ]
    elif not place.head:
        address = ("--address", place.address) if place.address else ()
        own = as_daemon(facts.bin_dir, "host", "certificate", "--make", *address)
        steps.append(
            CommandStep(
                "certificate",
                "the fleet's token, its authority, and this host's certificate",
                ("sh", "-c", f"{make_folder} && {' '.join(own)}"),
                done=lambda h: h.file(TOKEN).exists() and h.file(f"{TLS}/cert.pem").exists(),
            )
        )
    return steps


def _has_ray(host: SetupHost, bin_dir: Path) -> bool:
    """Whether the service would find Ray: beside partitiond, or in its own environment."""
    own = (str(bin_dir / "python"), "-I", "-c", "import importlib.metadata as m; m.version('ray')")
    managed = managed_ray(host.file(f"{STATE_DIRS[1]}/cluster"))
    return managed is not None or host.run(own).code == 0


def _gpu(facts: SetupFacts) -> Sequence[SetupStep]:
    if not facts.gpu:
        return ()
    steps: list[SetupStep] = [
        FileStep(
            "device-nodes",
            "program that makes the driver's device nodes, those of MIG instances, too",
            "/usr/local/libexec/partitiond/device-nodes",
            shipped("libexec/device-nodes"),
            mode=0o755,
        ),
        FileStep(
            "devices-service",
            "runs it at boot",
            f"{UNITS}/partitiond-devices.service",
            _unit("partitiond-devices.service", facts),
        ),
        FileStep(
            "udev",
            "runs it when a GPU appears (udev reads its rules by itself)",
            "/etc/udev/rules.d/70-partitiond.rules",
            shipped("udev/70-partitiond.rules"),
        ),
    ]
    if facts.mig:
        steps += [
            FileStep(
                f"mig-{kind}",
                f"the privileged helper that changes MIG ({kind})",
                f"{UNITS}/partitiond-mig.{kind}",
                _unit(f"partitiond-mig.{kind}", facts),
            )
            for kind in ("socket", "service")
        ]
    return steps


def _persistence(facts: SetupFacts) -> Sequence[SetupStep]:
    """Make the driver keep idle GPUs: else MIG is lost, and each first use takes seconds.

    Without its persistence daemon, what is set holds until the next boot: `doctor` says how.
    """
    if not (facts.gpu and facts.persistenced):
        return ()
    unit = "nvidia-persistenced.service"
    return (
        CommandStep(
            "persistence",
            "the driver stays loaded while no engine runs",
            ("systemctl", "enable", "--now", unit),
            done=lambda h: h.run(["systemctl", "is-active", "--quiet", unit]).code == 0,
            optional=True,
        ),
    )


def as_daemon(bin_dir: Path, *words: str, program: str = "partitiond") -> tuple[str, ...]:
    """A command of the folder, run as the daemon's user in the daemon's environment."""
    path = str(bin_dir / program)
    return ("runuser", "-u", USER, "--", "env", *SERVICE_ENVIRONMENT, path, *words)


def _engine(facts: SetupFacts) -> Sequence[SetupStep]:
    if not facts.engine:
        return ()
    variant = "cuda" if facts.gpu else "cpu"
    # The service makes the folders at its start, but it starts later.
    make = tuple(f"install -d -o {USER} -g {USER} -m 0750 {folder}" for folder in STATE_DIRS)
    compiler = as_daemon(facts.bin_dir, "-m", "partitiond.native", program="python")
    install = as_daemon(facts.bin_dir, "setup", "engine", "install", variant)
    return (
        CommandStep(
            "engine",
            f"vLLM ({variant}) in an environment of its own: several GB, some minutes",
            ("sh", "-c", " && ".join((*make, " ".join(install)))),
            done=lambda h: h.user_id() is not None and h.run((*install, "--check")).code == 0,
            seconds=None,
        ),
        CommandStep(
            "planner",
            "the planner's loops and the proxy's hot path, compiled: a minute or two",
            compiler,
            done=lambda h: h.user_id() is not None and h.run((*compiler, "--check")).code == 0,
            optional=True,
            seconds=None,
        ),
    )


def _enable(facts: SetupFacts, host: SetupHost) -> Sequence[SetupStep]:
    steps = []
    if facts.gpu and facts.mig:
        about = "the MIG helper answers"
        unsafe = _unsafe_for_root(facts)
        steps.append(_enabled(host, "mig", MIG_SOCKET, about, problem=unsafe))
    if facts.engine_user:
        for group in ("", *facts.isolation_groups):
            whose = f"engines of isolation group {group}" if group else "engines"
            about = f"{whose} can be started, now and at boot"
            unmount = (("systemctl", "stop", mount_unit(of_group(ENGINE_FOLDER, group))),)
            socket = for_group(ENGINE_SOCKET, group)
            steps.append(_enabled(host, _key("engines", group), socket, about, last_undo=unmount))
    for group in ("", *facts.isolation_groups) if facts.engine_user and facts.gpu else ():
        about = f"engines in MPS shares of {of_group(ENGINE_USER, group)} can be started"
        unmount = (("systemctl", "stop", mount_unit(of_group(MPS_FOLDER, group))),)
        socket = for_group(MPS_SOCKET, group)
        steps.append(_enabled(host, _key("mps", group), socket, about, last_undo=unmount))
    if facts.cluster is not None:
        about = "the hosts reach each other, now and at boot"
        steps.append(_enabled(host, "ray", RAY_SERVICE, about, problem=_unreachable_by(facts)))
    # Restarting the service leaves engines running; undoing a setup must stop them.
    down = (as_daemon(facts.bin_dir, "down"),)
    about = "the service starts, now and at boot"
    steps.append(
        _enabled(host, "enable", SERVICE, about, first_undo=down, problem=_unreachable_by(facts))
    )
    return steps


def _enabled(
    host: SetupHost,
    key: str,
    unit: str,
    what: str,
    *,
    first_undo: tuple[tuple[str, ...], ...] = (),
    last_undo: tuple[tuple[str, ...], ...] = (),
    problem: str = "",
) -> CommandStep:
    if not host.live:
        where = f"--root={host.root}"
        return CommandStep(
            key,
            what.replace("now and ", ""),
            ("systemctl", where, "enable", unit),
            done=lambda h: h.run(["systemctl", where, "is-enabled", "--quiet", unit]).code == 0,
            undone_by=(("systemctl", where, "disable", unit),),
            mark=f"{UNITS}/{unit}",
            live=False,
        )
    return CommandStep(
        key,
        what,
        ("systemctl", "enable", "--now", unit),
        done=lambda h: all(
            h.run(["systemctl", asked, "--quiet", unit]).code == 0
            for asked in ("is-enabled", "is-active")
        ),
        undone_by=(*first_undo, ("systemctl", "disable", "--now", unit), *last_undo),
        mark=f"{UNITS}/{unit}",
        seconds=200.0,
        cannot=lambda _: problem,
    )


def _unreachable_by(facts: SetupFacts) -> str:
    """Why the daemon's user could not run the program; empty if it can."""
    program = facts.bin_dir / "partitiond"
    try:
        if not program.is_file():
            return f"there is no {program}: install partitiond there, or name another --bin-dir"
        folders = (*program.parents, *(facts.bin_dir / "python").resolve().parents)
        closed = next((p for p in folders if not p.stat().st_mode & 0o001), None)
    except OSError as error:
        return f"{program} cannot be looked at: {error.strerror}"
    if closed is None:
        return ""
    return (
        f"user {USER} may not enter {closed}, where this partitiond or its Python lies: install it "
        "in /opt/partitiond with the system's Python (python3 -m venv), or name another --bin-dir"
    )


def _unsafe_for_root(facts: SetupFacts) -> str:
    """Why root should not run the helper from there (others could change it); empty if safe."""
    interpreter = facts.bin_dir / "python"
    try:
        real = interpreter.resolve(strict=True)
        paths = (interpreter.parent, *interpreter.parents, real, *real.parents)
        open_to = next((p for p in paths if _others_write(p)), None)
    except OSError as error:
        return f"{interpreter} cannot be looked at: {error.strerror}"
    if open_to is not None:
        return f"the helper runs as root, and {open_to} can be changed by others"
    if any(real.is_relative_to(home) for home in ("/home", "/root")):
        return f"the helper sees no home folder, and {real} lies in one"
    return ""


def _others_write(path: Path) -> bool:
    found = path.stat()
    return found.st_uid != 0 or bool(found.st_mode & 0o002 and not found.st_mode & stat.S_ISVTX)


def _stale_units(host: SetupHost) -> bool:
    """Whether systemd has not yet read the present units."""
    units = (
        SERVICE,
        "partitiond-devices.service",
        RAY_SERVICE,
        MIG_SOCKET,
        "partitiond-mig.service",
        *(
            unit
            for group in ("", *installed_groups(host, UNITS))
            for unit in (
                mount_unit(of_group(ENGINE_FOLDER, group)),
                for_group(ENGINE_SOCKET, group),
                mount_unit(of_group(MPS_FOLDER, group)),
                for_group(MPS_SOCKET, group),
            )
        ),
    )
    for unit in units:
        if not host.file(f"{UNITS}/{unit}").exists():
            continue
        shown = host.run(["systemctl", "show", "--property=NeedDaemonReload,LoadState", unit])
        if shown.code != 0 or "=yes" in shown.output or "not-found" in shown.output:
            return True
    return not host.file(f"{UNITS}/{SERVICE}").exists()
