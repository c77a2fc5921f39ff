"""Recorded traffic is read in the forms in which it is published."""

import gzip
from pathlib import Path

import pytest

from loadgen import InputError, read_trace

BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
118,GPT-4,417,276,693,API log
120,GPT-4,99,0,99,API log
"""
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,55
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:01.017335+00:00,2399,6
"""
MOONCAKE = """{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 3052, "input_length": 7319, "output_length": 490, "hash_ids": [0, 14, 15]}
"""


def written(tmp_path: Path, text: str, name: str = "trace") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_published_traces_are_read(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, BURSTGPT))
    assert trace.offsets == (0.0, 40.0, 113.0)
    assert trace.pairs == ((472, 18), (1087, 230), (417, 276))
    assert trace.skipped == 1, "a request that failed had no answer"
    trace = read_trace(written(tmp_path, MOONCAKE))
    assert trace.offsets == (0.0, 3.052)
    assert trace.in_order.blocks == ((0, 1, 2), (0, 14, 15))
    assert trace.in_order.pair(1, 99) == (7319, 490)


@pytest.mark.parametrize(
    ("text", "offset", "pairs"),
    [(AZURE, 4.314579, ((374, 44), (396, 109))), (AZURE_2024, 1.007405, ((2162, 5), (2399, 6)))],
)
def test_azure(tmp_path: Path, text: str, offset: float, pairs: tuple[object, ...]) -> None:
    trace = read_trace(written(tmp_path, text), limit=2)
    assert trace.offsets == pytest.approx((0.0, offset), abs=2e-6)
    assert trace.pairs == pairs


def test_a_part_of_a_trace_in_any_order_and_form(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(("\ufeff" + BURSTGPT.replace("\n", "\r\n")).encode()))
    assert len(read_trace(path).rows) == 3, "of Windows"
    later = read_trace(path, start_seconds=40)
    assert (later.pairs, later.offsets) == (((1087, 230), (417, 276)), (0.0, 73.0))
    assert len(read_trace(path, limit=1).rows) == 1
    back = "\n".join(reversed(MOONCAKE.splitlines())) + "\n\n"
    assert read_trace(written(tmp_path, back)).offsets == (0.0, 3.052)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b,c\n1,2,3\n", "no trace that is known"),
        (BURSTGPT.splitlines()[0] + "\n", "holds no request"),
        (BURSTGPT + "x,ChatGPT,1,2,3,API log\n", "line 6: could not convert"),
        (BURSTGPT + "7,ChatGPT,1\n", "line 6: 3 cells where 6 are named"),
        (BURSTGPT + "7,ChatGPT,1.5,2,3,API log\n", "line 6: '1.5' is no number of tokens"),
        (AZURE + "yesterday,1,2\n", "line 5: Invalid isoformat"),
        (AZURE + "2023-11-16 18:15:46,-1,2\n", "line 5: '-1' is no number of tokens"),
        ("TIMESTAMP,ContextTokens\n1,2\n", "line 1: no column 'generatedtokens'"),
        (MOONCAKE + "{\n", "line 3: no JSON"),
        (MOONCAKE + '{"timestamp": 1}\n', "line 3: no 'input_length'"),
        (MOONCAKE + "[]\n", "line 3: it is no JSON object"),
        (MOONCAKE + '{"timestamp": 1, "input_length": null, "output_length": 2}\n', "line 3"),
    ],
)
def test_what_is_wrong_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_trace(written(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read.*Check the path"):
        read_trace(tmp_path / "nowhere.csv")
    broken = tmp_path / "cut.gz"
    broken.write_bytes(gzip.compress(BURSTGPT.encode() * 50)[:60])
    with pytest.raises(InputError, match="line"):
        read_trace(broken)
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    with pytest.raises(InputError, match="line 1"):
        read_trace(tmp_path / "binary")
    with pytest.raises(InputError, match="smaller --start"):
        read_trace(written(tmp_path, BURSTGPT), start_seconds=1e6)
    with pytest.raises(InputError, match="at least 1"):
        read_trace(written(tmp_path, BURSTGPT), limit=0)
