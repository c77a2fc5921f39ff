"""Supervises small scripts as engines are, by the shim alone or through systemd's connection."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partitiond.engines.process import sandbox, shim
from partitiond.engines.process import signals as process
from partitiond.engines.process.commands import shim_command
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.spawn import spawn_shim
from partitiond.platform.process_identity import ProcessId
from tests.engine_fixtures import simulated_launch
from tests.machine import until

ORDINARY = ["setpriv", "--bounding-set=-sys_admin,-perfmon"] if os.geteuid() == 0 else []
"""As root a process may read others beyond its domain; no engine is root."""


class Launcher:
    """Accepts connections as systemd's socket does: one process for each, with a folder."""

    def __init__(self, folder: Path, words: Sequence[str] = ORDINARY) -> None:
        self.folder = folder
        self._command = [*words, sys.executable, "-I", sandbox.__file__, "--without-cgroup"]
        self.path = folder / "launch.sock"
        self.started: list[subprocess.Popen[bytes]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            folder = self.folder / str(len(self.started))
            folder.mkdir()
            with connection:
                env = {"RUNTIME_DIRECTORY": str(folder), "PATH": "/usr/bin:/bin"}
                stdin = connection.fileno()
                started = subprocess.Popen(
                    self._command, stdin=stdin, env=env, start_new_session=True
                )
                self.started.append(started)

    def close(self) -> None:
        """Stop accepting, and end what was started; may be called again."""
        if self._thread.is_alive():
            self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join()
        self._listener.close()
        for started in self.started:
            started.kill()
            started.wait()


class Script:
    """A supervised Python script instead of an engine."""

    def __init__(self, folder: RunFolder, launcher: Launcher | None = None) -> None:
        self.folder = folder
        self._more = {"launcher": str(launcher.path)} if launcher else {}

    async def start(self, script: str, says: str = "") -> ProcessId:
        """Its supervisor, once the script said this."""
        launch = simulated_launch()
        argv = [sys.executable, "-I", "-c", textwrap.dedent(script)]
        self.folder.prepare(launch, shim_command(argv, {}, launch, self.folder) | self._more)
        await spawn_shim(self.folder)
        if says:
            await self.said(says)
        return self.leader

    @property
    def leader(self) -> ProcessId:
        found = self.folder.leader()
        assert found is not None
        return found

    async def said(self, text: str) -> None:
        await until(lambda: text in shim.read_text(str(self.folder.log)))

    async def gone(self) -> None:
        await asyncio.wait_for(process.wait_gone(self.leader), 60)

    async def quit(self) -> None:
        """As without its consent."""
        process.send_signal(self.leader, signal.SIGQUIT)
        await self.gone()

    async def finished(self, script: str) -> dict[str, Any]:
        """How it ended."""
        await self.start(script)
        await self.gone()
        record: dict[str, Any] = json.loads((self.folder.path / "exit.json").read_text())
        return record
