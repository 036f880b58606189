"""What a process that reads pictures may do, by the width of a picture: named by tests, run in that process."""

from __future__ import annotations

import os
import resource
import signal
import time

from PIL import Image

CRASHES, MEMORY, SLOW, RAISES, ENVIRONMENT, FORKS, HANGS = range(101, 108)


def faulty(picture: Image.Image) -> Image.Image:
    if picture.width == CRASHES:
        os.kill(os.getpid(), signal.SIGSEGV)
    if picture.width == MEMORY:
        bytearray(2**34)
    while picture.width == SLOW:
        pass
    if picture.width == RAISES:
        raise ZeroDivisionError("secret")
    if picture.width == ENVIRONMENT:
        told = "REMORA_KEY" in os.environ, resource.getrlimit(resource.RLIMIT_CORE)[0] != 0
        return Image.new("RGB", picture.size, (told[0], told[1], 7))
    if picture.width == FORKS:
        os.fork()
    if picture.width == HANGS:
        time.sleep(600)
    return picture
