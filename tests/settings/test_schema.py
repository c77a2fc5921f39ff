"""Settings know the origin of each value, and wrong values are refused with clear words."""

from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import InputError, SettingsError
from partitiond.core.plan.record import Objective
from partitiond.core.units import GIB
from partitiond.serde import toml_of
from partitiond.settings.reload import RELOADABLE, changes, taken_over
from partitiond.settings.schema import Settings, load_settings, settings_values
from partitiond.settings.service import service_options
from partitiond.settings.sources import describe
from partitiond.settings.types import is_loopback


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def refusal(
    file: Path | None = None,
    env: dict[str, str] | None = None,
    flags: dict[str, object] | None = None,
) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load_settings(file, env or {}, flags or {})
    return caught.value


@pytest.fixture
def no_file(tmp_path: Path) -> Path:
    return write(tmp_path, "")


def test_a_later_source_wins_and_says_so(tmp_path: Path) -> None:
    file = write(tmp_path, "[proxy]\nport = 1\nmax_queue = 2\n[control]\nport = 3\n")
    env = {"PARTITIOND_PROXY__PORT": "4", "PARTITIOND_CONTROL__PORT": "5"}
    loaded = load_settings(file, env, {"control.port": 6, "planner.seed": None})
    assert loaded.settings.proxy.max_queue == 2
    assert loaded.origins["proxy.max_queue"] == f"file {file}:proxy.max_queue"
    assert loaded.settings.proxy.port == 4
    assert loaded.origins["proxy.port"] == "environment PARTITIOND_PROXY__PORT"
    assert loaded.settings.control.port == 6
    assert loaded.origins["control.port"] == "--set control.port"
    assert loaded.origins["planner.seed"] == "default"
    assert loaded.config_file == file


def test_a_socket_may_be_an_address_which_releases_without_the_setting_pass_over(
    no_file: Path,
) -> None:
    """So the service's unit can name it, and an older daemon starts all the same."""
    for text in ("/run/a.sock", "unix:///run/a.sock"):
        env = {"PARTITIOND_ENGINE__LAUNCHER": text}
        assert load_settings(no_file, env, {}).settings.engine.launcher == Path("/run/a.sock")
    unknown = {"PARTITIOND_ENGINE__OF_TOMORROW": "unix:///run/a.sock"}
    assert load_settings(no_file, unknown, {}).settings.engine.launcher is None


def test_sizes_lists_and_choices_are_read_from_every_source(tmp_path: Path) -> None:
    file = write(tmp_path, "[planner]\nseed = 7\n")
    assert load_settings(None, {"PARTITIOND_CONFIG": str(file)}).settings.planner.seed == 7
    file = write(
        tmp_path,
        'state_dir = "here"\nrun_dir = "/tmp/run"\n[cpu]\nmemory = "12GiB"\ncores = [0, 1]\n'
        '[models]\nallow_folders = ["m", "/n"]\n[planner]\nobjective = "max-goodput"\n',
    )
    settings = load_settings(file).settings
    assert settings.state_dir == tmp_path / "here"
    assert settings.cpu.memory == 12 * 1024**3
    assert settings.cpu.cores == (0, 1)
    assert settings.models.allow_folders == (tmp_path / "m", Path("/n"))
    assert settings.planner.objective is Objective.MAX_GOODPUT
    env = {
        "PARTITIOND_CPU__MEMORY": "1GiB",
        "PARTITIOND_CPU__CORES": "2, 3",
        "PARTITIOND_GPU__ENABLED": "no",
        "PARTITIOND_DAEMON__LOOP_SECONDS": "1",
        "PARTITIOND_ENGINE__PYTHON": "",
    }
    settings = load_settings(file, env, {"models.allow_folders": [Path("/p")]}).settings
    assert settings.cpu.memory == 1024**3
    assert settings.cpu.cores == (2, 3)
    assert not settings.gpu.enabled
    assert settings.daemon.loop_seconds == 1.0
    assert settings.engine.python is None
    assert settings.models.allow_folders == (Path("/p"),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[proxy]\nprot = 1\n", "config.toml: proxy.prot; Did you mean proxy.port?"),
        ("[prxy]\nport = 1\n", "prxy.port; Did you mean proxy.port?"),
        ("[planner]\ntime_limit = 1\n", "Did you mean planner.time_limit_seconds?"),
        ("[engine]\ncgroup = 'none'\n", "engine.cgroup; An earlier release had it"),
        ("[nothing]\n", "[nothing]"),
        ("proxy = 1\n", "proxy; table"),
        ('[proxy]\nport = "8000"\n', "proxy.port; config.toml:proxy.port; '8000'"),
        ("[proxy]\nport = true\n", "proxy.port; True"),
        ("[proxy]\nport = 70000\n", "proxy.port; 65535"),
        ("[gpu]\nenabled = 1\n", "gpu.enabled"),
        ("[engine]\nstart_deadline_seconds = inf\n", "engine.start_deadline_seconds"),
        ("[cpu]\ncores = [-1]\n", "cpu.cores"),
        ('[cpu]\nmemory = "much"\n', "cpu.memory; 40GiB"),
        ("[cpu]\nmemory = 2020-01-01\n", "cpu.memory"),
        ("[cpu]\nmemory = 1_000_000_000_000_001\n", "cpu.memory; at most 1e+15"),
        ("[engine]\nstart_deadline_seconds = 1e10\n", "start_deadline_seconds; at most 1e+09"),
        ("[scaling]\nfloor_req_per_s = 1e-10\n", "floor_req_per_s; at least 1e-09"),
        ("[scaling]\nup_cooldown_seconds = inf\n", "up_cooldown_seconds; at most 1e+09"),
        ("[proxy]\nport = \n", "TOML; line 2"),
        ("[profiling]\nmin_window_seconds = 99\n", "min_window_seconds"),
        ('[planner]\nobjective = "min-power"\n', "planner.objective; min-energy"),
        ("state_dir.x = 1\n", "state_dir.x"),
        ("state_dir = 1\n", "state_dir"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    said = str(refusal(write(tmp_path, text)))
    assert [word for word in words.split("; ") if word not in said] == []


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.toml").message
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    assert "UTF-8" in refusal(tmp_path / "latin.toml").message


def test_a_wrong_variable_or_flag_is_refused_by_name_and_others_left_alone(no_file: Path) -> None:
    for name, value, word in (
        ("PARTITIOND_PROXY_PORT", "1", "PARTITIOND_PROXY__PORT"),
        ("PARTITIOND_PROXY__PROT", "1", "PARTITIOND_PROXY__PORT"),
        ("PARTITIOND_PROXY__PORT", "many", "environment PARTITIOND_PROXY__PORT"),
        ("PARTITIOND_GPU__ENABLED", "perhaps", "gpu.enabled"),
        ("PARTITIOND_CPU__CORES", "0,x", "cpu.cores"),
    ):
        assert word in str(refusal(no_file, {name: value}))
    assert "proxy.port" in str(refusal(no_file, {}, {"proxy.prot": 1}))
    env = {
        "HOME": "/x",
        "PARTITIOND_TOKEN": "secret",
        "PARTITIOND_PORT": "tcp://10.0.0.1:8000",
        "PARTITIOND_SERVICE_HOST": "10.0.0.1",
        "PARTITIOND_NATIVE": "0",
        "PARTITIOND_NATIVE_DIR": "/y",
    }
    assert set(load_settings(no_file, env).origins.values()) == {"default"}


def test_nothing_listens_beyond_loopback_without_keys(no_file: Path) -> None:
    assert "require_keys" in refusal(no_file, {}, {"proxy.host": "0.0.0.0"}).message
    load_settings(no_file, {}, {"proxy.host": "0.0.0.0", "proxy.require_keys": True})
    assert "allow_remote" in refusal(no_file, {}, {"control.host": "::"}).message
    load_settings(no_file, {}, {"control.host": "::", "control.allow_remote": True})
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", ""):
        assert not is_loopback(host)


def test_paths_and_urls_follow_and_fit_sockets(no_file: Path) -> None:
    error = refusal(no_file, {}, {"run_dir": "/" + "x" * 80})
    assert "shorter" in error.message
    load_settings(no_file, {}, {"state_dir": "/" + "x" * 80, "run_dir": "/tmp/run"})
    settings = Settings.model_validate({"state_dir": "/s", "cache_dir": "/c"})
    assert settings.token_path == Path("/s/admin-token")
    assert settings.metrics_token_path == Path("/s/metrics-token")
    assert settings.models_dir == Path("/c/models")
    assert settings.control_url == "http://127.0.0.1:8400"
    everywhere = {"host": "::", "port": 1, "require_keys": True}
    assert Settings.model_validate({"proxy": everywhere}).proxy_url == "http://[::1]:1"


def test_every_setting_is_described(no_file: Path) -> None:
    loaded = load_settings(no_file)
    listed = {info.key: info for info in describe(Settings)}
    assert set(listed) == set(loaded.origins) == set(settings_values(loaded.settings))
    for info in listed.values():
        assert info.description.endswith("."), info.key
        assert info.type
        if info.key.endswith("_seconds"):
            assert "seconds" in info.description
    assert listed["state_dir"].default == "the platform's user state folder"
    assert listed["cpu.memory"].environment == "PARTITIOND_CPU__MEMORY"
    assert str(Path.home()) not in " ".join(info.default for info in listed.values())


@given(port=st.integers(0, 65535), seconds=st.floats(0.001, 1e9), on=st.booleans())
def test_text_and_typed_values_mean_the_same(port: int, seconds: float, on: bool) -> None:
    typed = {"proxy.port": port, "proxy.max_wait_seconds": seconds, "cpu.enabled": on}
    text = {key: str(value) for key, value in typed.items()}
    env = {f"PARTITIOND_{key.replace('.', '__').upper()}": value for key, value in text.items()}
    results = {
        load_settings(None, env | {"PARTITIOND_CONFIG": ""}, {}).settings.model_dump_json(),
        load_settings(None, {}, dict(text)).settings.model_dump_json(),
        load_settings(None, {}, typed).settings.model_dump_json(),
    }
    assert len(results) == 1


def test_the_collector_of_spans_is_an_address_kept_as_it_was_written(tmp_path: Path) -> None:
    file = write(tmp_path, "")
    assert load_settings(file).settings.tracing.endpoint is None
    for url in ("http://127.0.0.1:4318/v1/traces", "https://gpu-host/x", "http://[::1]:9400"):
        env = {"PARTITIOND_TRACING__ENDPOINT": url}
        for loaded in (
            load_settings(file, {}, {"tracing.endpoint": url}),
            load_settings(file, env),
        ):
            assert loaded.settings.tracing.endpoint == url
    example = "tracing.endpoint: write an address such as http://127.0.0.1:4318/v1/traces"
    for url in (
        *("127.0.0.1:9400", "localhost", "ftp://host/metrics", "http://", "http://host:99999/"),
        *("http://host:0/", "http://[::1/", "http://a host/metrics", "file:///etc/passwd"),
    ):
        assert example in refusal(write(tmp_path, f'[tracing]\nendpoint = "{url}"\n')).message


def test_toml_that_is_none_is_told_with_its_line_and_column() -> None:
    for content, place in (
        (b"[proxy\nport = 1", "at line 1, column 7"),
        (b"[proxy]\nport = ", "at line 2, column 8"),
        (b"[[models", "at line 1, column 9"),
        (b'a = 1\nb = """x\ny', "at line 3, column 2"),
        (b"a = 1\nb = '\xff'", "at line 2, column 6"),
        (b"a = 1\na = 2", "at line 2, column 6"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
    ):
        with pytest.raises(InputError, match=place) as caught:
            toml_of(content)
        assert "end of document" not in caught.value.message


@pytest.mark.parametrize(
    "overrides",
    [{"cpu.enabled": True}, {"cpu.enabled": False, "gpu.simulated_host": "/nonexistent"}],
)
def test_host_memory_is_said_by_the_cpu_device_or_not_at_all(overrides: dict[str, object]) -> None:
    settings = load_settings(overrides=overrides).settings
    assert service_options(settings).planning.host_memory_bytes is None


def test_host_memory_of_a_host_of_gpus_alone_is_what_there_is_less_headroom() -> None:
    settings = load_settings(overrides={"cpu.enabled": False}).settings
    told = service_options(settings).planning.host_memory_bytes
    assert told is not None
    assert 0 < told < psutil.virtual_memory().total
    less = load_settings(overrides={"cpu.enabled": False, "cpu.memory": "1GiB"}).settings
    told = service_options(less).planning.host_memory_bytes
    assert told is not None
    assert told < GIB


@pytest.mark.parametrize(("stale", "told"), [(None, 0.0), (0.0, 0.0), (90.0, 90.0)])
@pytest.mark.parametrize("cluster", [True, False])
def test_a_head_that_is_away_closes_no_key_unless_a_time_is_set(
    stale: float | None, told: float, cluster: bool
) -> None:
    settings = load_settings(overrides={"keys.stale_seconds": stale}).settings
    members = settings.cluster.model_copy(update={"enabled": cluster})
    settings = settings.model_copy(update={"cluster": members})
    assert service_options(settings).routes.keys_stale_seconds == told


def test_keys_that_would_be_refused_in_a_slow_pass_are_none() -> None:
    with pytest.raises(SettingsError, match="give 10 or more"):
        load_settings(overrides={"keys.stale_seconds": 9.0})


def test_changes_are_told_apart_and_only_what_was_taken_changes() -> None:
    assert {info.key for info in describe(Settings)} >= RELOADABLE
    old = load_settings().settings
    new = load_settings(overrides={"planner.seed": 7, "control.port": 9999}).settings
    found = changes(settings_values(old), settings_values(new))
    assert (found.taken, found.waiting) == (("planner.seed",), ("control.port",))
    assert found.text() == (
        "settings re-read: took planner.seed; a restart is needed for control.port"
    )
    assert changes(settings_values(old), settings_values(old)).text() == (
        "settings re-read: nothing changed"
    )
    some = {"planner.seed": 7, "proxy.max_queue": 3, "proxy.port": 1234}
    new = load_settings(overrides={**some, "daemon.keep_engines_on_exit": True}).settings
    found = changes(settings_values(old), settings_values(new))
    used = taken_over(old, new, found.taken)
    assert (used.planner.seed, used.proxy.max_queue, used.proxy.port) == (7, 3, old.proxy.port)
    assert used.daemon.keep_engines_on_exit
    assert changes(settings_values(used), settings_values(new)).taken == ()


def test_without_a_home_folder_it_says_what_to_set_and_does_with_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a container's user without an entry in passwd."""

    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match="no home folder") as caught:
        load_settings()
    assert "HOME" in caught.value.hint
    folders = {"state_dir": str(tmp_path / "s"), "cache_dir": str(tmp_path / "c")}
    assert load_settings(overrides=folders).settings.cache_dir == tmp_path / "c"
