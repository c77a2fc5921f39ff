"""`up` measures the models that it can measure before it plans."""

import dataclasses

import pytest

from partitiond.cli.plan.up import profile_missing
from partitiond.core.profile.jobs import (
    Job,
    JobState,
    ProfileOptions,
    Progress,
)
from partitiond.core.replica.obstacles import Obstacle, ObstacleKind
from partitiond.core.views.lists import ModelView
from partitiond.settings.schema import Settings
from tests.controller.samples import NOW, cpu, record


@dataclasses.dataclass
class Daemon:
    """Answers as a daemon would of which no engine starts; `asked` are the profiles asked for."""

    obstacles: dict[str, Obstacle]
    asked: list[str] = dataclasses.field(default_factory=list)

    def devices(self) -> list[object]:
        return [cpu()]

    def profiles(self, _name: str) -> list[object]:
        return []

    def model(self, name: str) -> ModelView:
        return ModelView(
            record(name), "unavailable", 0, 0, None, provisional=False,
            obstacle=self.obstacles.get(name),
        )  # fmt: skip

    def profile(self, name: str, _options: ProfileOptions) -> None:
        self.asked.append(name)

    def jobs(self) -> list[Job]:
        return [self._job(name, JobState.RUNNING) for name in self.asked]

    def job(self, job_id: str) -> Job:
        return self._job(job_id.removeprefix("job-"), JobState.FAILED)

    def _job(self, name: str, state: JobState) -> Job:
        return Job(
            f"job-{name}", "profile", name, state, NOW, NOW, Progress("", ""), error="no memory."
        )


def test_what_cannot_be_measured_keeps_no_other_from_it(capsys: pytest.CaptureFixture[str]) -> None:
    absent = Obstacle("a", ObstacleKind.ENGINE_ABSENT, "there is no vLLM.", "Install it.", NOW)
    failed = Obstacle("b", ObstacleKind.PROFILE_FAILED, "it broke.", "", NOW)
    daemon = Daemon({"a": absent, "b": failed})
    profile_missing(daemon, ["a", "b", "c"], Settings())  # type: ignore[arg-type]  # as much as it asks
    assert dict.fromkeys(daemon.asked) == dict.fromkeys(["b", "c"])
    said = "".join(capsys.readouterr())
    assert "a cannot run here: there is no vLLM. Install it." in said
    for name in ("b", "c"):
        assert f"job job-{name} for {name} failed. no memory." in said
