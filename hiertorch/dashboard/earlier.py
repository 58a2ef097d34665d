"""What a folder's earlier event files hold: what a run needs to know that continues them, or takes their place.

Note [Two writers, one folder]
TensorBoard has two readers, and a running one keeps what it has read.

- The fast one drops a tag's points at step T and later when a point at T comes in. So a run that continues from T
  repeats every tag's last value there, and one that takes another one's place puts a blank in every tag at 0.
- The other drops every tag's points at T and later when a session starts at T, unless that is the first start it sees,
  so a session starts twice; where blanks were written in between, they are dropped too. It waits for ever at a file
  that was deleted while it stood at its end, so the last of the old files stays, empty.

Both keep the first word on hyper-parameters and on how a run ended, the running ones until they are started anew.

All that is here raises an OSError if a file can't be read or deleted.
"""

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary  # type: ignore[import-untyped]
from tensorboard.compat.proto.tensor_pb2 import TensorProto  # type: ignore[import-untyped]
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c  # type: ignore[import-untyped]

from hiertorch.dashboard.records import WRITER

PATTERN = "events.out.tfevents.*"
SETUP = ("_hparams_/", "custom_scalars__config__")  # of the page, written anew by every run
PIXEL = bytes.fromhex(  # a PNG of one transparent pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000b4944415478da6360000200"
    "00050001e9fadcd80000000049454e44ae426082"
)
HEAD = struct.Struct("<QI")  # a message's length, and the checksum of the length


def succeeded(folder: Path, steps: int, chains: int) -> tuple[int, dict[Path, list[Summary.Value]]]:
    """Makes way for a new run: the step at which its files begin, and what those of each folder are to begin with. The
    curves of the `steps` that it continues go on if they are there.
    """
    old = event_files(folder)
    begin = steps if old else 0
    found = {part: carried(part, begin or None) for part in {folder, *(path.parent for path in old)}}
    if not begin:
        remove(folder, chains)
    return begin, found


def carried(folder: str | os.PathLike[str], before: int | None = None) -> list[Summary.Value]:
    """What `EventFile.begin` needs so that no page shows stale points, histograms, pictures or texts of a folder: for
    every tag its last value at the step to continue from or before, and a blank (NaN, no bars, no text) where there is
    none, or no such step since the run takes the earlier one's place.

    A session's start at step T supersedes earlier records at T and later. A file counts up to the first record that is
    cut off or damaged. The folder is one run of TensorBoard, need not exist, and its subfolders are other ones.
    """
    files = [list(_events(path)) for path in _own(folder)]
    found = {} if before is None else _last(files, before)
    for events in files:
        for event in events:
            for value in event.summary.value:
                if value.tag not in found:
                    found[value.tag] = _blank(value)
    return [value for tag, value in found.items() if value is not None and not tag.startswith(SETUP)]


def event_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Of a run and its chains, in the order in which they are read; the folder need not exist."""
    return [path for part in _parts(folder) for path in _own(part)]


def remove(folder: str | os.PathLike[str], chains: int = 0) -> None:
    """Takes the event files of a run and its chains away, and folders of chains that are left with nothing; those that
    another program has written stay.

    See Note [Two writers, one folder] for what stays: an empty file in each folder that is written again, that of the
    run itself and those of so many chains. To be called before the new files are made.
    """
    again = {Path(folder), *(Path(folder) / f"chain_{c}" for c in range(chains))}
    for part in _parts(folder):
        files = [path for path in _own(part) if _ours(path)]
        if part in again and files:
            os.truncate(files.pop(), 0)
        for path in files:
            path.unlink(missing_ok=True)
        if part not in again and not any(part.iterdir()):
            part.rmdir()


def _parts(folder: str | os.PathLike[str]) -> list[Path]:
    return [Path(folder), *sorted(path for path in Path(folder).glob("chain_*") if path.is_dir())]


def _own(folder: str | os.PathLike[str]) -> list[Path]:
    return sorted(path for path in Path(folder).glob(PATTERN) if path.is_file())


def _ours(path: Path) -> bool:
    """Whether the file is empty, or its first record says that it is from here."""
    first = next(_events(path), None)
    return path.stat().st_size == 0 if first is None else first.source_metadata.writer == WRITER


def _last(files: list[list[Event]], before: int) -> dict[str, Summary.Value]:
    """Tag -> its last value at this step or before, of every kind."""
    last: dict[str, Summary.Value] = {}
    start = math.inf
    for events in reversed(files):  # backwards, so that what was superseded is known
        for event in reversed(events):
            step = event.step
            if event.session_log.status == SessionLog.START:
                start = min(start, step)
            elif step < start and step <= before:
                for value in event.summary.value:
                    last.setdefault(value.tag, value)
    return last


def _events(path: Path) -> Iterator[Event]:
    """Up to the first record that is cut off, whose length has a wrong checksum or that is no event."""
    data, at = path.read_bytes(), 0
    while at + HEAD.size <= len(data):
        length, checksum = HEAD.unpack_from(data, at)
        begin = at + HEAD.size
        at = begin + length + 4  # the record's own checksum
        if at > len(data) or masked_crc32c(data[begin - HEAD.size : begin - 4]) != checksum:
            return
        try:
            yield Event.FromString(data[begin : at - 4])
        except DecodeError:
            return


def _blank(value: Summary.Value) -> Summary.Value | None:
    """Of the same tag and kind; None if the kind is not one of a dashboard's."""
    kind = value.WhichOneof("value")
    if kind == "tensor":
        kind = value.metadata.plugin_data.plugin_name
    if kind in ("simple_value", "scalars"):
        return Summary.Value(tag=value.tag, simple_value=float("nan"))
    if kind in ("histo", "histograms"):
        # A count without a limit: no bars in the one reader, a value that the other one leaves out.
        return Summary.Value(tag=value.tag, histo=HistogramProto(bucket=[0.0]))
    if kind in ("image", "images"):
        image = Summary.Image(height=1, width=1, colorspace=4, encoded_image_string=PIXEL)
        return Summary.Value(tag=value.tag, image=image)
    if kind == "text":
        text = TensorProto(dtype="DT_STRING", string_val=[b""], tensor_shape=value.tensor.tensor_shape)
        return Summary.Value(tag=value.tag, metadata=value.metadata, tensor=text)
    return None
