"""Messages between two processes: they arrive as they were sent, and a wrong one is refused."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest

from smart_rag.files.worker_process import receive, send


@pytest.fixture
def channels():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@pytest.mark.parametrize("value", [None, "ä\udcff\n", [1, 2.5, True], {"a": ["b", None]}])
@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_a_message_arrives(channels, value, size):
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    sender = threading.Thread(target=send, args=(channels[0], value, data))
    sender.start()
    assert receive(channels[1]) == (value, data)
    sender.join()


def test_messages_stay_apart(channels):
    for i in range(3):
        send(channels[0], i, b"x" * i)
    assert [receive(channels[1]) for _ in range(3)] == [(0, b""), (1, b"x"), (2, b"xx")]


def test_a_message_that_is_too_long_is_not_received(channels):
    send(channels[0], 0, b"1234")
    assert receive(channels[1], max_bytes=5) == (0, b"1234")
    for lengths in ((6, 0), (1, 5), (2**64 - 1, 2**64 - 1)):
        channels[0].sendall(struct.pack("!QQ", *lengths))
        with pytest.raises(ValueError, match="a message of"):
            receive(channels[1], max_bytes=5)


def test_the_end_of_the_other_process(channels):
    channels[0].sendall(struct.pack("!QQ", 10, 0) + b"12")
    channels[0].close()
    with pytest.raises(EOFError):
        receive(channels[1])


def test_the_time_is_for_the_whole_message(channels):
    """A byte now and then does not extend it."""
    begin = time.monotonic()
    ended = threading.Event()

    def trickle():
        channels[0].sendall(struct.pack("!QQ", 1_000, 0))
        while not ended.wait(0.05):
            channels[0].sendall(b"1")

    sender = threading.Thread(target=trickle)
    sender.start()
    with pytest.raises(TimeoutError):
        receive(channels[1], seconds=0.3)
    ended.set()
    sender.join()
    assert 0.3 <= time.monotonic() - begin < 10
