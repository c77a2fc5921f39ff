"""No file that a user names is read beyond its bound, and the error says what to do."""

from pathlib import Path

import pytest

from partitiond.core.errors import SpecError
from partitiond.platform.bounded_files import content


def test_a_file_of_the_bound_is_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 9)
    assert content(file, "hint", most_bytes=9) == b"x" * 9
    file.write_bytes(b"x" * 10)
    for path, said, hint in (
        (file, "file is larger than 9 B", "Another."),
        (Path("/dev/zero"), "/dev/zero is larger than 9 B", "Another."),
        (tmp_path, "cannot be read: Is a directory", "Check the path."),
        (tmp_path / "none", "none cannot be read: No such file", "Check the path."),
    ):
        with pytest.raises(SpecError, match=said) as caught:
            content(path, "Another.", SpecError, 9)
        assert caught.value.hint == hint
