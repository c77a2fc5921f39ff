"""`partitiond setup` shows, applies, repeats and undoes its steps on image folders."""

import dataclasses
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from partitiond.cli.setup import changes, engine_host, isolation_groups, plan
from partitiond.cli.setup.host import SetupFacts, SetupHost, facts_of, shipped
from partitiond.cli.setup.steps import (
    MARK,
    CommandStep,
    FileStep,
    SetupStep,
    StepProgress,
    with_mark,
)
from partitiond.core.errors import DeviceError, InputError
from tests.cli.conftest import Cli

UNITS = "etc/systemd/system"


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content; links by where they lead."""
    return {
        str(p.relative_to(folder)): bytes(p.readlink()) if p.is_symlink() else p.read_bytes()
        for p in folder.rglob("*")
        if p.is_symlink() or p.is_file()
    }


def test_an_image_is_set_up_once_and_taken_back_whole(cli: Cli, image: Path) -> None:
    before = listing(image)
    cli("setup --root", image, "--gpu").ended(0, "Nothing was changed", "partitiond.service")
    assert "nothing to undo" in cli("setup --root", image, "--undo").err
    assert listing(image) == before

    done = cli("setup --root", image, "--gpu", "--apply", "--json")
    assert (done.code, {step["state"] for step in done.json}) == (0, {"done", "on the host"})
    made = listing(image)
    assert made.keys() >= {
        f"{UNITS}/partitiond.service",
        f"{UNITS}/multi-user.target.wants/partitiond.service",
        f"{UNITS}/sockets.target.wants/partitiond-mig.socket",
        "etc/udev/rules.d/70-partitiond.rules",
        "etc/partitiond/config.toml",
    }
    assert (image / "usr/local/libexec/partitiond/device-nodes").stat().st_mode & stat.S_IXUSR

    again = cli("setup --root", image, "--gpu", "--apply", "--json")
    assert {step["state"] for step in again.json} == {"done", "on the host"}
    assert cli("setup --root", image, "--undo").code == 0
    assert listing(image) == made
    assert cli("setup --root", image, "--undo", "--apply", "--purge").code == 0
    left = {
        name: body
        for name, body in listing(image).items()
        # systemd-sysusers and userdel keep backups and locks of their own
        if not name.startswith(("etc/.pwd", "etc/group", "etc/passwd", "etc/gshadow", "etc/shadow"))
    }
    assert left == {name: body for name, body in before.items() if "tmpfiles.d" in name}
    assert "partitiond:" not in (image / "etc/passwd").read_text()


def test_what_was_changed_since_is_left_and_said(cli: Cli, image: Path) -> None:
    cli("setup --root", image, "--no-gpu", "--apply")
    assert not [name for name in listing(image) if "mig" in name or "udev" in name], "no GPUs"
    config = image / "etc/partitiond/config.toml"
    config.write_text("[planner]\nseed = 7\n")
    cli("setup --root", image, "--undo", "--apply").ended(1, "it is left")
    assert "seed = 7" in config.read_text()
    assert not (image / UNITS / "partitiond.service").exists()


def test_what_no_setup_wrote_is_neither_replaced_nor_removed(cli: Cli, image: Path) -> None:
    mine = image / "etc/tmpfiles.d/partitiond.conf"
    mine.write_text("# mine\n")
    words = ("setup", "--root", image, "--no-gpu")
    cli(*words).ended(0, "cannot", "is not as a setup wrote it")
    before = listing(image)
    cli(*words, "--apply").refused(2, "etc/tmpfiles.d/partitiond.conf", "Move it away")
    assert listing(image) == before, "nothing is changed"
    cli("setup --root", image, "--undo", "--apply").ended(1, "it is left")
    assert listing(image) == before


def test_an_upgraded_file_is_replaced_and_one_that_was_changed_is_not(tmp_path: Path) -> None:
    host = SetupHost(tmp_path, live=False)
    file = host.file("/etc/partitiond.d/unit")
    for text in ("ours, old\n", "#!/bin/sh\nours, new\n"):
        step = FileStep("u", "a unit", "/etc/partitiond.d/unit", text)
        list(changes.apply(host, (step,)))
        lines = file.read_text().splitlines(keepends=True)
        assert "".join(line for line in lines if not line.startswith(MARK)) == text
        assert step.read_state(host).state is StepProgress.DONE
    assert file.read_text().startswith("#!/bin/sh\n"), "a script is still one"
    ours = file.read_text()
    for theirs in (ours + "more\n", ours.replace("new", "old"), "theirs", ours + ours):
        file.write_text(theirs)
        with pytest.raises(InputError, match="is there"):
            list(changes.apply(host, (step,)))
        (outcome,) = changes.undo(host, (step,), purge=False)
        assert (outcome.state, file.read_text()) == (StepProgress.CANNOT, theirs)
    file.write_text(ours)
    theirs_too = file.with_name("theirs.conf")
    theirs_too.touch()
    assert [o.state for o in changes.undo(host, (step,), purge=False)] == [StepProgress.DONE]
    assert theirs_too.exists()
    theirs_too.unlink()
    list(changes.apply(host, (step,)))
    list(changes.undo(host, (step,), purge=False))
    assert list(tmp_path.rglob("*")) == [tmp_path / "etc"]
    assert list(changes.undo(host, (step,), purge=False)) == []


def test_a_failure_stops_there_and_can_be_gone_on_with_or_undone(tmp_path: Path) -> None:
    host = SetupHost(tmp_path, live=True, path="/usr/bin:/bin")
    flag = tmp_path / "flag"
    broken = CommandStep(
        "c", "a command", ("cat", str(flag)), done=lambda _: False,
        undone_by=(("rm", str(flag)), ("false",)), mark="/flag",
    )  # fmt: skip
    steps: tuple[SetupStep, ...] = (
        FileStep("a", "first", "/a/b/first", "1"),
        broken,
        FileStep("z", "last", "/last", "2"),
    )
    with pytest.raises(DeviceError, match="No such file"):
        list(changes.apply(host, steps))
    assert [step.key for step in changes.there(host, steps)] == ["a"]
    flag.write_text("now it works")
    assert [o.key for o in changes.apply(host, steps)] == ["a", "c", "z"]
    notes = {o.key: o.note for o in changes.undo(host, steps, purge=False)}
    assert notes == {"z": "", "c": "`false` ended with 1: no word", "a": ""}
    assert not flag.exists()


# --- a running host, played by small programs ----------------------------------------------------

FAKE = """#!/bin/sh
echo "${{0##*/}} $*" >> {log}
case "$*" in
  --version) echo "systemd {version} (fake)" ;;
  is-*) exit 3 ;;
  show*) echo NeedDaemonReload=yes ;;
esac
case "${{0##*/}}" in
  systemd-sysusers) echo "partitiond:x:990:990::/:/bin/false" >> {root}/etc/passwd ;;
  runuser) case "$*" in *--check*) exit 6 ;; esac ;;
esac
exit 0
"""
PROGRAMS = (
    "systemctl", "systemd-sysusers", "systemd-tmpfiles", "loginctl", "runuser",
)  # fmt: skip


@dataclasses.dataclass
class Played:
    """A host, what its programs were asked, and what was found on it."""

    host: SetupHost
    log: Path
    facts: SetupFacts

    @property
    def units(self) -> Path:
        return self.host.file("/etc/systemd/system")

    def asked(self) -> list[str]:
        """What was asked since the last time."""
        lines = self.log.read_text().splitlines()
        self.log.write_text("")
        return lines

    def steps(self, **facts: Any) -> tuple[SetupStep, ...]:
        return plan.steps_for(dataclasses.replace(self.facts, **facts), self.host)

    def apply(self, **facts: Any) -> list[str]:
        """What is asked while everything is set up."""
        self.asked()
        outcomes = list(changes.apply(self.host, self.steps(**facts)))
        # The helper is refused where its program is not root's, as here for another user.
        assert {o.state for o in outcomes if o.key != "mig"} == {StepProgress.DONE}, outcomes
        return self.asked()

    def undo(self) -> list[str]:
        """What is asked while it is taken back."""
        self.asked()
        list(changes.undo(self.host, plan.all_steps(self.host, None), purge=False))
        return self.asked()

    def named(self, pattern: str) -> set[str]:
        return {path.name for path in self.units.glob(pattern)}

    def installed(self, name: str) -> set[str]:
        """The units of engines, or of those under MPS, and of a group's."""
        mount = name.replace("-", "\\x2d")
        return {
            f"partitiond-{name}.socket",
            f"partitiond-{name}@.service",
            f"run-partitiond\\x2d{mount}.mount",
        } & self.named("*")


def in_order(asked: Sequence[str], *begins: str) -> None:
    """Each was asked, one after the other."""
    found = [next(i for i, line in enumerate(asked) if line.startswith(b)) for b in begins]
    assert found == sorted(found)


@pytest.fixture
def played() -> Iterator[Played]:
    """Below no folder of pytest's: each run of it that begins closes its folder to other users."""
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        Path(name).chmod(0o755)
        yield played_below(Path(name))


def played_below(folder: Path) -> Played:
    root, programs, log = folder / "root", folder / "bin", folder / "log"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    programs.mkdir()
    units = root / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    (units / "nvidia-persistenced.service").touch()
    for name in PROGRAMS:
        file = programs / name
        file.write_text(FAKE.format(log=log, root=root, version=256))
        file.chmod(0o755)
    (folder / "opt").mkdir()
    for name in ("partitiond", "python"):
        (folder / "opt" / name).symlink_to("/bin/true")
    host = SetupHost(root, live=True, path=f"{programs}:/usr/bin:/bin")
    facts = facts_of(
        host, gpu=True, mig=True, engine=False, engine_user=False, bin_dir=folder / "opt"
    )
    log.write_text("")
    return Played(host, log, facts)


def test_a_gpu_host_is_asked_in_order_and_asked_back_in_reverse(played: Played) -> None:
    mig = os.geteuid() == 0
    in_order(
        played.apply(mig=mig),
        "systemd-sysusers",
        "systemctl daemon-reload",
        "systemctl enable --now nvidia-persistenced.service",
        *(["systemctl enable --now partitiond-mig.socket"] if mig else []),
        "systemctl enable --now partitiond.service",
    )
    text = (played.units / "partitiond.service").read_text()
    assert f"ExecStart={played.facts.bin_dir}/partitiond serve" in text

    back = played.undo()
    assert back[0].startswith("runuser -u partitiond")
    assert back[0].endswith(f" {played.facts.bin_dir}/partitiond down")
    assert back[1] == "systemctl disable --now partitiond.service"
    assert not [line for line in back if "persistenced" in line], "others may need it"
    assert back[-1] == "systemctl daemon-reload"
    assert not (played.units / "partitiond.service").exists()
    left = played.host.file("/etc/partitiond")
    assert not left.exists() or not list(left.iterdir())


def test_engines_get_a_user_of_their_own_and_lose_it_again(played: Played) -> None:
    """The sockets are there before the daemon that asks at them; that under MPS where GPUs are."""
    drop_in = played.units / "partitiond.service.d/30-engines.conf"
    asked = played.apply(engine_user=True)
    for name in ("engine", "mps"):
        assert len(played.installed(name)) == len(played.named(f"*partitiond*{name}*")) == 3
        unit = (played.units / f"partitiond-{name}@.service").read_text()
        assert f"{played.facts.bin_dir}/python -I -m" in unit
        enable = f"systemctl enable --now partitiond-{name}.socket"
        in_order(asked, enable, "systemctl enable --now partitiond.service")
    assert engine_host.service_engine_socket(played.host) == Path("/run/partitiond-engine.sock")
    played.apply()
    assert not drop_in.exists()
    assert engine_host.service_engine_socket(played.host) is None
    assert "own-engines" not in {step.key for step in played.steps()}
    played.apply(engine_user=True)
    assert drop_in.exists()
    back = played.undo()
    for name in ("engine", "mps"):
        in_order(
            back,
            f"systemctl disable --now partitiond-{name}.socket",
            f"systemctl stop run-partitiond\\x2d{name}.mount",
        )
        assert not played.named(f"*partitiond*{name}*")
    played.apply(engine_user=True, gpu=False)
    assert not played.named("*partitiond*mps*")


def test_a_group_s_units_and_user_differ_in_its_names_alone() -> None:
    shared = ("chgrp partitiond ", "partitiond.engines.process", "gid=partitiond,",
              "/var/cache/partitiond/engines", "SocketGroup=partitiond\n")  # fmt: skip
    for name in (
        "partitiond-engine.socket",
        "partitiond-engine@.service",
        "partitiond-engine.mount",
    ):
        plain = shipped(f"systemd/{name}")
        blue = isolation_groups.for_group(plain, "blue")
        assert blue.replace("partitiond-engine-blue", "partitiond-engine") == plain
        assert "partitiond-engine-blue" in blue
        assert not re.search(r"partitiond-engine(?!-blue)\b", blue), "a name of the default group"
        assert [plain.count(text) for text in shared] == [blue.count(text) for text in shared]
    assert isolation_groups.users_text("blue").splitlines() == [
        line.replace("partitiond-engine", "partitiond-engine-blue")
        for line in shipped("sysusers.d/partitiond.conf").splitlines()
        if line.split()[1] == "partitiond-engine"
    ]


def test_groups_are_installed_and_taken_back(played: Played) -> None:
    """With units of their own for engines and for those under MPS."""
    asked = played.apply(engine_user=True, isolation_groups=("blue",))
    for name in ("engine-blue", "mps-blue"):
        assert len(played.installed(name)) == 3
        assert f"systemctl enable --now partitiond-{name}.socket" in asked
    assert len(played.named("*blue*")) == 6
    for unit, line in (
        ("partitiond-mps-blue@.service", "\nUser=partitiond-engine-blue\n"),
        ("partitiond-mps-blue@.service",
         "\nBindPaths=/run/partitiond-mps-blue /run/partitiond-mps-blue:/dev/shm\n"),
        ("partitiond-mps-blue.socket", "\nListenStream=/run/partitiond-mps-blue.sock\n"),
        ("run-partitiond\\x2dmps\\x2dblue.mount", "\nWhere=/run/partitiond-mps-blue\n"),
        ("run-partitiond\\x2dmps\\x2dblue.mount", "uid=partitiond-engine-blue,"),
    ):  # fmt: skip
        assert line in (played.units / unit).read_text()
    assert isolation_groups.installed_groups(played.host, "/etc/systemd/system") == ("blue",)
    in_order(
        played.undo(),
        "systemctl disable --now partitiond-engine-blue.socket",
        "systemctl stop run-partitiond\\x2dengine\\x2dblue.mount",
    )
    assert not played.named("*engine*")
    assert isolation_groups.installed_groups(played.host, "/etc/systemd/system") == ()


def test_the_engines_user_and_groups_of_an_image_stay_and_are_purged(cli: Cli, image: Path) -> None:
    words = ("setup", "--root", image, "--no-gpu", "--apply")
    drop_in = image / UNITS / "partitiond.service.d/30-engines.conf"
    assert cli(*words, "--no-engine-user").code == 0
    assert not drop_in.exists()
    assert cli(*words).code == 0
    assert drop_in.exists(), "it is the default"
    cli(*words, "--isolation-group", "blue", "--isolation-group", "green").ended(0)
    for group in ("blue", "green"):
        wants = image / UNITS / f"sockets.target.wants/partitiond-engine-{group}.socket"
        assert wants.is_symlink()
        assert f"partitiond-engine-{group}:" in (image / "etc/passwd").read_text()
    made = listing(image)
    unit = image / UNITS / "partitiond-engine-blue@.service"
    unit.write_text(with_mark("# of an earlier version\n"))
    assert "Isolation groups that are installed stay: blue, green." in cli(*words).err
    assert listing(image) == made
    assert cli("setup --root", image, "--undo", "--apply", "--purge").code == 0
    assert "partitiond" not in (image / "etc/passwd").read_text()
    assert not list((image / UNITS).rglob("*engine*"))
    assert not list((image / "etc/sysusers.d").glob("*"))


def test_a_group_s_steps_have_keys_of_their_own_and_keep_the_folder_of_programs(
    played: Played,
) -> None:
    groups = ("engine", "manager", "mount", "mps", "service", "socket")
    keys = [step.key for step in played.steps(engine_user=True, isolation_groups=groups)]
    assert len(keys) == len(set(keys))
    folder = Path("/opt/partitiond-engine/bin")
    steps = played.steps(engine_user=True, isolation_groups=("blue",), bin_dir=folder)
    texts = [
        str(step.text)
        for step in steps
        if isinstance(step, FileStep) and step.path.endswith("-blue@.service")
    ]
    assert len(texts) == 2
    assert all(f"ExecStart={folder}/python" in text for text in texts)


def test_an_installation_that_the_user_cannot_enter_or_others_could_change_is_refused(
    played: Played,
) -> None:
    played.facts.bin_dir.chmod(0o700)
    (enable,) = (step for step in played.steps() if step.key == "enable")
    seen = enable.read_state(played.host)
    assert seen.state is StepProgress.CANNOT
    assert "may not enter" in seen.note
    assert "/opt/partitiond" in seen.note
    assert plan._unsafe_for_root(played.facts) == "" or os.geteuid() != 0
    played.facts.bin_dir.chmod(0o777)
    assert "can be changed by others" in plan._unsafe_for_root(played.facts)


def test_options_that_make_no_sense_are_refused(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("setup --root", tmp_path, "--isolation-group", "Blue").refused(2, "no name of an isolation")
    cli("setup --purge").refused(2)
    cli("setup --root /no/such/folder").refused(2)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    cli("setup --apply").refused(10, "sudo")


def test_the_planners_loops_are_compiled_as_the_daemons_user(played: Played) -> None:
    keys = [step.key for step in played.steps(engine=True)]
    assert keys.index("engine") < keys.index("planner") < keys.index("enable")
    assert "planner" not in [step.key for step in played.steps()]
    played.host.file("/etc/passwd").write_text("partitiond:x:990:990::/:/bin/false\n")
    (step,) = (step for step in played.steps(engine=True) if step.key == "planner")
    assert step.read_state(played.host).state is StepProgress.TODO
    step.apply(played.host)
    asked = played.asked()[-1]
    assert asked.startswith("runuser -u partitiond -- env ")
    assert asked.endswith("opt/python -m partitiond.native")
    assert "HOME=/var/lib/partitiond" in asked
