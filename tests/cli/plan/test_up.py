"""`up` measures the models that it can measure before it plans."""

import dataclasses
from pathlib import Path

import pytest

from partitiond.cli.plan.up import profile_missing
from partitiond.core.errors import ConflictError
from partitiond.core.profile.jobs import Job, JobState, ProfileOptions, Progress
from partitiond.core.replica.obstacles import Obstacle, ObstacleKind
from partitiond.core.views.lists import ModelView
from partitiond.settings.schema import Settings
from tests.api.routes.test_plan import Solver
from tests.cli.conftest import Cli, ServedApi
from tests.controller.host import Host
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


class Asked(Solver):
    """Keeps what was asked for."""

    @property
    def least(self) -> list[dict[str, int]]:
        """Replicas of each model."""
        made = [request.models for request in self.asked if request.models]
        return [{model.model: model.min_replicas for model in models} for models in made]


@pytest.fixture
def asked(served: ServedApi) -> Asked:
    """What plans were made from, on a host with room for all."""
    served.host.devices.become([cpu(8)])
    served.host.solve = made = Asked()
    served.run(served.host.service.daemon.start())
    return made


def test_a_dry_run_plans_with_what_is_new_or_changed_and_leaves_the_rest_to_the_daemon(
    asked: Asked, host: Host, cli: Cli, tmp_path: Path
) -> None:
    cli("models add opt-125m --no-auto").ended(0)
    cli("models add smollm2-135m --no-auto").ended(0)
    same = '[[models]]\nmodel = "opt-125m"\nauto = false\n'
    changed = '[[models]]\nmodel = "smollm2-135m"\nauto = false\nmin_replicas = 1\n'
    file = tmp_path / "fleet.toml"
    file.write_text(f'{same}{changed}[[models]]\nmodel = "opt-1.3b"\n')
    cli("up --dry-run --allow-outage -f", file).ended(0, "opt-125m: would be unchanged")
    file.write_text(same)
    cli("up --dry-run -f", file).ended(0)
    known = {"opt-125m": 0, "smollm2-135m": 0}
    assert asked.least == [{**known, "smollm2-135m": 1, "opt-1.3b": 0}, known]
    assert host.store.model("smollm2-135m").spec.min_replicas == 0
    assert [one.allow_outage for one in asked.asked if one.models] == [True, False]


def test_an_alias_moves_within_a_file_in_any_order_in_a_dry_run_too(
    asked: Asked, host: Host, cli: Cli, tmp_path: Path
) -> None:
    cli("models add opt-125m --no-auto --alias chat").ended(0)
    cli("models add smollm2-135m --no-auto").ended(0)
    file, gives = tmp_path / "fleet.toml", '[[models]]\nmodel = "opt-125m"\nauto = false\n'
    for has in ('"smollm2-135m"\naliases = ["chat"]', '"opt-1.3b"\nname = "chat"'):
        file.write_text(f"[[models]]\nmodel = {has}\nauto = false\n")
        cli("up --dry-run -f", file).ended(2, "chat is an alias of opt-125m")
        takes = file.read_text()
        for models in (gives + takes, takes + gives):
            file.write_text(models)
            dry = cli("up --dry-run --json -f", file).ended(0).json["models"]
            assert "unchanged" not in dry.values()
            assert host.store.model("opt-125m").spec.aliases == ("chat",)
    before, refused = host.store.model("opt-125m"), "engine = { max_model_len = 1_000_000 }\n"
    alias = '[[models]]\nmodel = "smollm2-135m"\nauto = false\naliases = ["chat"]\n'
    file.write_text(f"{alias}{refused}{gives}")
    cli("up --no-profile --no-wait -f", file).ended(2)
    assert host.store.model("opt-125m") == before, "who should get it is refused"
    file.write_text(f"{takes}{refused}{gives}")
    cli("up --no-profile --no-wait -f", file).ended(2)
    assert host.store.model("opt-125m").spec == before.spec, "it has it again"
    file.write_text(takes + gives)
    up = cli("up --no-profile --no-wait -f", file)
    assert "chat: registered\nopt-125m: changed" in up.err
    cli("models update opt-125m --alias talk").ended(0)
    file.write_text(f"{gives}{refused}{alias.replace('chat', 'talk')}")
    up = cli("up --json --no-profile --no-wait -f", file).ended(2)
    assert up.json["models"] == {"opt-125m": "refused", "smollm2-135m": "changed"}


def test_a_model_that_comes_from_elsewhere_is_changed(host: Host, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    for folder in (tmp_path / "m", tmp_path / "other"):
        folder.mkdir()
        file.write_text(f'[[models]]\nmodel = "{folder}"\nname = "m"\nauto = false\n')
        cli("up --no-profile --no-wait -f", file)
        assert host.store.model("m").spec.source.ref == str(folder)


def test_a_model_that_is_refused_keeps_no_other_from_its_place(
    asked: Asked, cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.toml"
    wrong = "engine = { max_model_len = 1_000_000 }\n"
    file.write_text(f'[[models]]\nmodel = "opt-125m"\n{wrong}[[models]]\nmodel = "opt-1.3b"\n')
    said = "opt-125m is refused: opt-125m is asked for a context of 1000000 tokens"
    up = cli("up --no-profile --no-wait --json -f", file).ended(2, said)
    assert up.json["models"] == {"opt-125m": "refused", "opt-1.3b": "registered"}
    assert up.json["plan"] is not None
    file.write_text(f'{file.read_text()}[[models]]\nmodel = "smollm2-135m"\n')
    dry = cli("up --dry-run --json -f", file).ended(2, said).json
    would_be = {"opt-125m": "refused", "opt-1.3b": "unchanged", "smollm2-135m": "registered"}
    assert (dry["models"], dry["infeasible"]) == (would_be, None)
    assert asked.least[-1].keys() == {"opt-1.3b", "smollm2-135m"}
    asked.error = ConflictError("it was overtaken.")  # which is no model's fault
    cli("up --dry-run -f", file).ended(4, "it was overtaken.")
