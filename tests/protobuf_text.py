"""Text messages as protobuf's C++ reader takes them: the one that Caffe itself uses, stricter than Python's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from google.protobuf.message import Message
from grpc_tools import protoc

from tests.schema import PROTO, message_class


def parse_as_caffe(text: str, type_name: str) -> Message | None:
    """Read `text` as one message of caffe.proto; None where C++ refuses it."""
    arguments = ["protoc", f"-I{PROTO}", f"--encode=caffe.{type_name}", "caffe.proto"]
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as made, tempfile.TemporaryFile() as complaints:
        given.write(text.encode("utf-8", "surrogateescape"))
        given.seek(0)
        with _descriptors({0: given.fileno(), 1: made.fileno(), 2: complaints.fileno()}):
            status = protoc.main(arguments)
        if status:
            return None
        made.seek(0)
        return message_class(type_name).FromString(made.read())


@contextmanager
def _descriptors(targets: dict[int, int]) -> Iterator[None]:
    """Put other files behind the standard descriptors: protoc knows no other way in and out."""
    saved = {fd: os.dup(fd) for fd in targets}
    try:
        for fd, target in targets.items():
            os.dup2(target, fd)
        yield
    finally:
        for fd, old in saved.items():
            os.dup2(old, fd)
            os.close(old)
