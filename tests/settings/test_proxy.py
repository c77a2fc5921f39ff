"""Wrong settings of the endpoint are refused, and the others reach its process."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from partitiond.core.errors import SettingsError
from partitiond.proxy.config import ProxyOptions
from partitiond.settings.proxy import ProxySettings
from partitiond.settings.schema import load_settings
from partitiond.settings.service import proxy_options


def loaded(tmp_path: Path, text: str = "", env: dict[str, str] | None = None) -> ProxySettings:
    path = tmp_path / "config.toml"
    path.write_text(f"[proxy]\n{text}\n")
    return load_settings(path, env or {}).settings.proxy


def test_every_setting_reaches_the_process(tmp_path: Path) -> None:
    assert proxy_options(loaded(tmp_path)) == ProxyOptions()
    env = {"PARTITIOND_PROXY__ALLOWED_HOSTS": "ai.example, gpu-box"}
    names = proxy_options(loaded(tmp_path, env=env)).allowed_hosts
    assert names == ("ai.example", "gpu-box")
    text = """
    workers = 2
    max_connections = 500
    max_header_bytes = "16KiB"
    cors_origins = ["https://App.example:443", "http://127.0.0.1:3000"]
    allowed_hosts = ["AI.example.", "gpu-box"]
    debug_headers = "never"
    client_timeout_seconds = 5.0
    retry_share = 0.1
    max_body_bytes = 1000
    max_bodies_bytes = "1MiB"
    max_sequences = 65_536
    """
    options = proxy_options(loaded(tmp_path, text))
    assert dataclasses.asdict(options) == dataclasses.asdict(ProxyOptions()) | {
        "workers": 2,
        "max_connections": 500,
        "max_header_bytes": 16 * 1024,
        "cors_origins": ("https://app.example", "http://127.0.0.1:3000"),
        "allowed_hosts": ("ai.example", "gpu-box"),
        "debug_headers": "never",
        "client_timeout_seconds": 5.0,
        "retry_share": 0.1,
        "max_body_bytes": 1000,
        "max_bodies_bytes": 1024 * 1024,
        "max_sequences": 65_536,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workers = 0", "proxy.workers"),
        ("workers = 65", "proxy.workers"),
        ("max_connections = 0", "proxy.max_connections"),
        ("max_sequences = 0", "proxy.max_sequences"),
        ("max_sequences = 65537", "proxy.max_sequences"),
        ('max_bodies_bytes = "1MiB"', "less than proxy.max_body_bytes"),
        ('max_header_bytes = "1KiB"', "proxy.max_header_bytes"),
        ('max_header_bytes = "2MiB"', "proxy.max_header_bytes"),
        ('allowed_hosts = "a.example"', "proxy.allowed_hosts"),
        ('cors_origins = ["*", "https://a.example"]', "any origin already"),
        ('cors_origins = ["*"]', "require_keys"),
        ('cors_origins = ["a.example"]', "write an origin"),
        ('cors_origins = ["https://a.example/"]', "write an origin"),
        ('cors_origins = ["https://u:p@a.example"]', "write an origin"),
        ('cors_origins = ["https://*.example"]', "in full"),
        ('cors_origins = ["https://b\u00fccher.example"]', "ASCII"),
        ('cors_origins = ["https://a.example:99999"]', "write an origin"),
        ('cors_origins = ["file:///x"]', "write an origin"),
        ('cors_origins = ["null"]', "write an origin"),
        ('cors_origins = ["https://[::1"]', "write an origin"),
        ('cors_origins = [""]', "write an origin"),
        ('allowed_hosts = ["https://a.example"]', "no scheme"),
        ('allowed_hosts = ["a.example:8000"]', "no port"),
        ('allowed_hosts = ["b\u00fccher.example"]', "ASCII"),
        ('allowed_hosts = [""]', "write a name"),
        ('allowed_hosts = ["*", "a.example"]', "any name already"),
        ('debug_headers = "sometimes"', "proxy.debug_headers"),
        ("client_timeout_seconds = 0.0", "proxy.client_timeout_seconds"),
        ("retry_share = 1.5", "proxy.retry_share"),
        ("retry_share = nan", "proxy.retry_share"),
        ('tls_certificate = "/c.pem"', "proxy.tls_key is not set"),
        ('tls_key = "/k.pem"', "proxy.tls_certificate is not set"),
    ],
)
def test_a_wrong_value_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        loaded(tmp_path, text)
    assert words in refused.value.message


def test_clients_on_this_host_are_told_https_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[proxy]\ntls_certificate = "c.pem"\ntls_key = "k.pem"\nport = 8443\n')
    settings = load_settings(path).settings
    assert settings.proxy_url == "https://127.0.0.1:8443"
    assert settings.control_url.startswith("http://")
    assert settings.proxy.tls_certificate == tmp_path / "c.pem", "beside the settings file"
    # Whoever only asks the daemon need not be able to read its key.
    with pytest.raises(SettingsError, match=r"tls_certificate: .*c\.pem cannot be read"):
        proxy_options(settings.proxy)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates")
def test_files_for_tls_are_handed_over_when_they_can_be_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout k.pem -out c.pem"
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "k.pem").chmod(0o600)
    settings = loaded(tmp_path, 'tls_certificate = "c.pem"\ntls_key = "k.pem"')
    options = proxy_options(settings)
    assert options.tls_certificate == str(tmp_path / "c.pem")
    assert options.tls_key == str(tmp_path / "k.pem")
    assert caplog.text == ""
    (tmp_path / "k.pem").chmod(0o644)
    proxy_options(settings)
    assert "every user of this host" in caplog.text
