"""The protocol: every message read back as it was sent."""

from __future__ import annotations

from multiprocessing import Pipe
from pathlib import Path

import pytest

from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.space import space_of
from arxiv_embed.gpu.protocol import (
    KINDS,
    Cancel,
    Cancelled,
    Encoded,
    Ended,
    Failed,
    Look,
    Looked,
    Message,
    NotReady,
    OutOfMemory,
    Ready,
    Setup,
    Work,
    receive,
    send,
)

FILES = ModelFiles(
    "tiny", Path("/models/tiny"), "abc", "bert", 8, 64, 64, "mean", prompts={"query": "query: "}, shorter=(4,)
)
SPACE = space_of(FILES, "whole")
MESSAGES: list[Message] = [
    Setup(FILES, SPACE, "cuda:0", "auto", 2),
    Ready("bfloat16", "NVIDIA H100", 2**36, 2**33, 5, (1.5, 2.0, 0.0), True, False, 0, 2048, "bfloat16"),
    NotReady("no such file: “weights”"),
    Work(7, 1, 200, 600, 40_000, 2**35),
    Cancel(7),
    Look(),
    Encoded(7, 600, 0.25, 2**34, 12, 40_960),
    OutOfMemory(7, 2**30, tried=True),
    Failed(7, "ein Fehler\n", ends=True),
    Ended("its machine is not in the cluster any more"),
    Cancelled(7),
    Looked(2**31),
]


def test_these_are_all_messages() -> None:
    assert {type(message).__name__ for message in MESSAGES} == set(KINDS)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_read_back_as_it_was_sent(message: Message) -> None:
    ours, theirs = Pipe()
    send(ours, message)
    assert receive(theirs) == message


def test_the_end_of_the_other_side_is_an_error() -> None:
    ours, theirs = Pipe()
    ours.close()
    with pytest.raises((EOFError, OSError)):
        receive(theirs)
