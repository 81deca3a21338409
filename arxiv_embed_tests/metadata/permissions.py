"""Permissions that bind whoever runs the tests, the superuser too."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

VERSION_3 = 0x20080522
DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 1, 1 << 2


@contextmanager
def permissions_bind() -> Iterator[None]:
    """The superuser's thread gives up, for the while, what lets it pass over permissions (capabilities(7)); it can
    take that back, so everything stays in one process. All others are bound anyway."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    this_thread = ctypes.create_string_buffer(struct.pack("=Ii", VERSION_3, 0), 8)
    before = ctypes.create_string_buffer(24)
    assert libc.capget(this_thread, before) == 0, os.strerror(ctypes.get_errno())
    effective, *others = struct.unpack("=6I", before.raw)
    bound = struct.pack("=6I", effective & ~(DAC_OVERRIDE | DAC_READ_SEARCH), *others)
    assert libc.capset(this_thread, ctypes.create_string_buffer(bound, 24)) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        assert libc.capset(this_thread, before) == 0, os.strerror(ctypes.get_errno())
