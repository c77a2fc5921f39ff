"""Frames are cut the same, however their bytes come."""

import random

import pytest

from partitiond.proxy.peers import frames
from partitiond.proxy.peers.frames import FrameReader, WireError, frame


def test_a_frame_that_comes_byte_by_byte_is_joined_once() -> None:
    reader, sent = FrameReader(), frame(frames.PIECE, 7, b"x" * 5000) + frame(frames.END, 7)
    got = [one for at in range(len(sent)) for one in reader.feed(sent[at : at + 1])]
    assert got == [(frames.PIECE, 7, b"x" * 5000), (frames.END, 7, b"")]
    reader.feed(frames.HEADER.pack(100, 1, 1))
    reader.feed(b"y" * 50)
    assert len(reader._kept) == 2, "nothing is copied while a frame is incomplete"


@pytest.mark.parametrize("seed", range(5))
def test_frames_do_not_depend_on_where_their_bytes_are_split(seed: int) -> None:
    rng = random.Random(seed)
    wanted = [
        (rng.randrange(256), rng.randrange(2**32), rng.randbytes(rng.choice((0, 1, 9, 300))))
        for _ in range(30)
    ]
    data = b"".join(frame(*one) for one in wanted)
    reader, got = FrameReader(), []
    while data:
        at = rng.choice((1, 2, 8, 9, 10, 500))
        got += reader.feed(data[:at])
        data = data[at:]
    assert got == wanted


def test_a_frame_of_a_huge_length_is_refused_before_it_comes() -> None:
    with pytest.raises(WireError):
        FrameReader().feed(frames.HEADER.pack(frames.MAX_PAYLOAD_BYTES + 1, 1, 1))
