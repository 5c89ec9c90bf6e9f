"""Text messages as Google's own library reads them, over proto/caffe.proto."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import Message
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[1] / "proto"


def parse_message(text: str, type_name: str, allow_unknown: bool = False) -> Message:
    """Read `text` as one message `type_name` of caffe.proto; protobuf's ParseError where it is none."""
    message = message_class(type_name)()
    text_format.Parse(text, message, allow_unknown_field=allow_unknown)
    return message


@cache
def message_class(type_name: str) -> type[Message]:
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"caffe.{type_name}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """A pool of its own: two files named caffe.proto in the default pool would break a process with pycaffe."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "caffe.bin"
        if protoc.main(["protoc", f"-I{PROTO}", f"--descriptor_set_out={out}", "caffe.proto"]):
            raise RuntimeError("protoc refused proto/caffe.proto")
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)
    return pool
