"""The privileged helper, a process behind a socket, does what this user may not."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import DeviceError, InputError
from partitiond.core.hardware.partition import MigSlice
from partitiond.core.mig import changes
from partitiond.core.mig.geometry import place_of
from partitiond.core.units import Bytes
from partitiond.devices.mig import MigControl, protocol, read_state
from partitiond.devices.mig.client import MigHelper
from partitiond.devices.mig.helper import main
from partitiond.devices.mig.protocol import MAX_LINE_BYTES, request_line
from partitiond.simulated.gpus import SimulatedHost
from tests.devices.mig.test_control import CUT, PAIR, places
from tests.engine_fixtures import short_dir

__all__ = ["short_dir"]

MODULE = [sys.executable, "-m", "partitiond.devices.mig.helper"]
UUID = "GPU-28b9e16d-d47a-5df0-aee1-0d68c650a542"


class Helper:
    """A helper process with a socket in a short folder; socket paths are."""

    def __init__(self, host: SimulatedHost, folder: Path, *options: str) -> None:
        self.path = folder / "h.sock"
        self.log = folder / "log"
        command = [*MODULE, "--socket", str(self.path), "--nvml", str(host.nvml_path), *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stderr=log, env=os.environ | {"PARTITIOND_SIMULATED_PRIVILEGED": "1"}
            )
        while not self.listens():
            assert self.process.poll() is None, self.log.read_text()

    def listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            return connection.connect_ex(str(self.path)) == 0

    def say(self, line: bytes) -> dict[str, object]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(60)
            connection.connect(str(self.path))
            connection.sendall(line)
            found = json.loads(connection.makefile("rb").readline())
            assert isinstance(found, dict)
            return found

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def run(short_dir: Path) -> Iterator[Callable[..., Helper]]:
    """Starts a helper; each ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(host: SimulatedHost, *options: str) -> Helper:
            folder = Path(tempfile.mkdtemp(dir=short_dir))
            found = Helper(host, folder, *options)
            stack.callback(found.close)
            return found

        yield start


Run = Callable[..., Helper]


async def test_the_helper_does_what_this_user_may_not(host: SimulatedHost, run: Run) -> None:
    first, empty = host.uuids()
    host.privileged(False)
    helper = run(host)
    control, asked = MigControl("instances", helper.path), MigHelper(helper.path)
    made = await control.ensure(MigSlice(empty, Bytes(1), "3g.40gb", 4, 4))
    assert place_of(made) == ("3g.40gb", 4, 4)
    assert host.geometry(empty) == (made,)
    # Where instances are is told by the helper, too: not made up as without it.
    assert [place_of(i) for i in await control.instances(first)] == CUT
    assert read_state(first, asked.read_placed).placed
    assert not read_state(first).placed
    await control.ensure(MigSlice(first, Bytes(1), *PAIR), CUT[1:3])
    assert places(host, first) == [CUT[0], PAIR, CUT[3]]
    await control.destroy(first, PAIR)
    assert places(host, first) == [CUT[0], CUT[3]]
    log = helper.log.read_text()
    assert f"user {os.getuid()}: create the GPU instance 3g.40gb@4 on {empty}" in log
    assert "destroy the compute instance of 1g.10gb@2" in log
    # The driver's refusal comes back in its words.
    with pytest.raises(DeviceError, match="Insufficient Resources") as refused:
        asked.perform(first, changes.CreateGpuInstance(("2g.20gb", 4, 2)))
    assert refused.value.facts["nvml_code"] == 23
    with pytest.raises(DeviceError, match="no MIG profile 9g"):
        asked.perform(first, changes.CreateGpuInstance(("9g.90gb", 0, 8)))
    with pytest.raises(DeviceError):
        asked.perform(UUID.replace("2", "3"), changes.DestroyGpuInstance(CUT[0]))
    helper.close()
    with pytest.raises(DeviceError, match=r"h\.sock does not answer") as refused:
        asked.perform(first, changes.DestroyGpuInstance(CUT[0]))
    assert "partitiond-mig.socket" in refused.value.hint


LOOK = """
import sys, pynvml
from pathlib import Path
from partitiond.devices.nvml import use_library
use_library(Path(sys.argv[1]))
pynvml.nvmlInit()
pynvml.nvmlDeviceGetHandleByUUID(sys.argv[2])
print("open", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def look_at(host: SimulatedHost, uuid: str) -> Iterator[None]:
    """A monitor that has the GPU open until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", LOOK, str(host.nvml_path), uuid],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as looks:  # fmt: skip
        assert looks.stdout is not None
        assert looks.stdout.readline() == b"open\n"
        yield
        looks.communicate()


READ = {"version": 1, "gpu": UUID, "do": "read"}
DESTROY = READ | {"do": "destroy-gpu-instance"}
ODD = (
    *(READ | {"gpu": "0"}, READ | {"do": "reset"}, READ | {"more": 1}),
    *(READ | {"do": "set-mode", "enabled": 1}, DESTROY, DESTROY | {"place": ["x", 0, 1]}),
)
NO_REQUESTS = (
    *(b"\n", b"no json\n", b"[]\n", b"\xff\xfe\n", b"{}\n", b'{"version": 2}\n'),
    *(b"[" * 4000 + b"\n", b"x" * (MAX_LINE_BYTES + 10) + b"\n"),
    *(json.dumps(asked).encode() + b"\n" for asked in ODD),
)


def test_what_is_no_request_is_refused_and_the_helper_lives(host: SimulatedHost, run: Run) -> None:
    first, empty = host.uuids()
    helper = run(host)
    for line in NO_REQUESTS:
        answer = helper.say(line)
        assert answer["ok"] is False, line[:60]
        assert answer["message"]
    # Who speaks another language is not listened to any further: a body of HTTP may hold a line
    # that is a request, and be somebody else's.
    asked = request_line(empty, changes.CreateGpuInstance(("3g.40gb", 4, 4)))
    helper.say(b"POST /v1/completions HTTP/1.1\r\n" + asked)
    # A client that goes away keeps nobody out.
    for said in (b"", b'{"version"'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(helper.path))
            connection.sendall(said)
    # One connection comes after the other: those before are over.
    assert [i.place for i in protocol.parse_instances(helper.say(request_line(first, None)))]
    assert (places(host, first), places(host, empty)) == (CUT, [])
    assert helper.process.poll() is None


OTHER = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
    "s.sendall(sys.argv[2].encode()); print(s.makefile().readline())"
)


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_only_users_that_were_named_are_heard(
    host: SimulatedHost, short_dir: Path, run: Run
) -> None:
    uid, asked = 12345, request_line(host.uuids()[0], None).decode()
    short_dir.chmod(0o755)
    for gid, options, heard in (
        (12345, (), False),
        (12345, ("--allow-user", "12345"), True),
        (23456, ("--allow-group", "23456"), True),
        (23456, ("--allow-group", "34567"), False),
    ):
        found = run(host, *options)
        found.path.parent.chmod(0o755)
        if "--allow-user" not in options:
            found.path.chmod(0o666)  # the file's mode is one fence, who asks is another
        done = subprocess.run(
            ["/usr/bin/env", "python3", "-c", OTHER, str(found.path), asked],
            user=uid, group=gid, extra_groups=[], capture_output=True, timeout=300, cwd="/",
            env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        answer = json.loads(done.stdout)
        assert answer["ok"] is heard, options
        assert f"user {uid}" in found.log.read_text()
        assert heard or "group" in answer["hint"]


HANDED = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
    "os.environ['LISTEN_FDS'] = '1'; os.execv(sys.argv[2], sys.argv[2:])"
)
"""As systemd does: the socket is descriptor 3, and LISTEN_PID is the process itself."""


def test_systemd_hands_over_its_socket_and_the_helper_ends_when_idle(
    host: SimulatedHost, short_dir: Path
) -> None:
    path = short_dir / "handed.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        options = ["--nvml", str(host.nvml_path), "--idle-seconds", "0.5"]
        started = subprocess.Popen(
            [sys.executable, "-c", HANDED, str(listener.fileno()), *MODULE, *options],
            pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL,
        )  # fmt: skip
    assert len(MigHelper(path).read_placed(host.uuids()[0])) == len(CUT)
    assert started.wait(60) == 0


def test_a_helper_that_cannot_start_says_why(caplog: pytest.LogCaptureFixture) -> None:
    for options, words in (
        ("", "systemd handed over no socket"),
        ("--socket /nonexistent/folder/h.sock", "cannot be made"),
        ("--socket /etc/hostname", "is no socket"),
        ("--allow-group no-such-group --socket /nonexistent/x", "no such group"),
        ("--allow-user no-such-user --socket /nonexistent/x", "no such user"),
        ("--nvml /nonexistent/lib.so --socket /nonexistent/x", "cannot be loaded"),
    ):
        assert main(options.split()) == 2
        assert words in caplog.messages[-1]


PLACES = st.tuples(st.just("1g.10gb+me"), st.integers(0, 15), st.integers(1, 8))
OF_GPU, OF_COMPUTE = (
    (changes.CreateGpuInstance, changes.DestroyGpuInstance),
    (changes.CreateComputeInstance, changes.DestroyComputeInstance),
)
steps = st.one_of(
    *(st.builds(kind, PLACES) for kind in (*OF_GPU, *OF_COMPUTE)),
)


@given(step=st.none() | steps)
def test_requests_are_read_as_they_are_written(step: changes.Step | None) -> None:
    assert protocol.parse_request(request_line(UUID, step)) == (UUID, step)


@given(line=st.binary(max_size=200))
def test_any_line_is_read_or_refused(line: bytes) -> None:
    with contextlib.suppress(InputError):
        protocol.parse_request(line)
    with contextlib.suppress(DeviceError):
        protocol.parse_answer(line)
