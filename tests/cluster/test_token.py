"""The token is made once, and refused where others could have read it."""

from pathlib import Path

import pytest

from partitiond.cluster.token import check_token, ensure_token
from partitiond.core.errors import SettingsError


def test_a_token_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "token"
    with pytest.raises(SettingsError, match="there is no token") as refused:
        check_token(path)
    assert "scp" in refused.value.hint
    ensure_token(path)
    made = path.read_text()
    assert len(made.strip()) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    ensure_token(path)
    assert path.read_text() == made
    path.write_text("\n")
    with pytest.raises(SettingsError, match="is empty"):
        ensure_token(path)
    with pytest.raises(SettingsError, match="cannot be written"):
        ensure_token(path / "token")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_token_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    ensure_token(path)
    path.chmod(mode)
    with pytest.raises(SettingsError, match="others"):
        check_token(path)
