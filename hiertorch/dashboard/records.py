"""Event files, the format that TensorBoard reads: one record an event, on disk at once, without a thread.

Note [Our own event files]
`torch.utils.tensorboard` starts a thread a file, reopens the file for every record and computes its checksums byte by
byte in Python; a full disk ends in a traceback from that thread. A run has up to nine files and a few hundred records
in each, so a file kept open, a checksum by table and an error in the caller are both cheaper and safer. The messages
themselves are TensorBoard's.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog, SourceMetadata  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata  # type: ignore[import-untyped]
from tensorboard.compat.proto.tensor_pb2 import TensorProto  # type: ignore[import-untyped]
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto  # type: ignore[import-untyped]
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.text.plugin_data_pb2 import TextPluginData  # type: ignore[import-untyped]

__all__ = ["Chart", "EventFile", "crc32c"]

Chart = Sequence[str] | tuple[str, str, str]


class EventFile:
    """A new event file in a folder, made if need be; every method writes one event.

    Args:
        folder: one run of TensorBoard.

    Raises:
        OSError: if the folder or the file can't be written; so does every other method.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        # Files of a folder are read in the order of their names: the time comes first.
        self.path = path / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = self.path.open("xb")
        self._write(Event(file_version="brain.Event:2", source_metadata=SourceMetadata(writer="hiertorch")))

    def begin(self, step: int) -> None:
        """Whatever an earlier file of this folder holds at this step or later is superseded."""
        self._write(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Many tags in one event; a tag's steps must increase, or the reader drops what it has."""
        summary = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=summary)))

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Shown in the Text tab."""
        content = TextPluginData(version=0).SerializeToString()
        self._strings(
            step, tag, "text", markdown.encode(), content, TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        )

    def layout(self, categories: Mapping[str, Mapping[str, Chart]]) -> None:
        """The Custom Scalars tab: category -> title -> regexes of tags, or a tuple of tags `(value, lower, upper)`.

        Bands appear in the page in reverse order, so they are written in reverse.
        """
        layout = layout_pb2.Layout()
        for title, charts in categories.items():
            made = [_chart(name, tags) for name, tags in charts.items()]
            bands = all(isinstance(tags, tuple) for tags in charts.values())
            layout.category.append(layout_pb2.Category(title=title, chart=made[::-1] if bands else made))
        self._strings(
            0, "custom_scalars__config__", "custom_scalars", layout.SerializeToString(), b"", TensorShapeProto()
        )

    def close(self) -> None:
        """Nothing can be written after."""
        self._file.close()

    def _strings(self, step: int, tag: str, plugin: str, data: bytes, content: bytes, shape: Any) -> None:
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))
        tensor = TensorProto(dtype="DT_STRING", string_val=[data], tensor_shape=shape)
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._file.write(length + _masked(length) + data + _masked(data))
        self._file.flush()


def _chart(title: str, tags: Chart) -> Any:
    if not isinstance(tags, tuple):
        return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
    series = layout_pb2.MarginChartContent.Series(value=tags[0], lower=tags[1], upper=tags[2])
    return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=[series]))


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


BLOCK = 512  # bytes


def _tables() -> np.ndarray:
    """`(BLOCK, 256)`: what a byte's value adds to the checksum of a block, by its place in the block."""
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, crc >> 1 ^ np.uint32(0x82F63B78), crc >> 1)
    tables = [crc]
    for _ in range(BLOCK - 1):
        tables.append(tables[-1] >> 8 ^ crc[tables[-1] & 0xFF])
    return np.stack(tables[::-1])


TABLES = _tables()
PLACES = np.arange(BLOCK)


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of 4 bytes or more: the XOR of one table entry a byte, as it is linear over GF(2)."""
    short = -len(data) % BLOCK
    padded = np.zeros(short + len(data), dtype=np.uint8)  # zeros in front change nothing
    padded[short:] = np.frombuffer(data, dtype=np.uint8)
    padded[short : short + 4] ^= 0xFF
    crc = np.uint32(0)
    for block in padded.reshape(-1, BLOCK):
        block[:4] ^= np.frombuffer(struct.pack("<I", crc), dtype=np.uint8)
        crc = np.bitwise_xor.reduce(TABLES[PLACES, block])
    return int(crc) ^ 0xFFFFFFFF
