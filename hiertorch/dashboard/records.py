"""Event files, the format that TensorBoard reads: one record an event, on disk at once, without a thread.

Note [Our own event files]
`torch.utils.tensorboard` and TensorBoard's `EventFileWriter` start a thread a file and hand records over to it, so that
a full disk ends in a traceback from that thread, and flush every two minutes. Here a file is kept open in the caller,
who meets its errors; TensorBoard's `RecordWriter` makes the records. A file's buffer holds what one method writes, so
that readers meet whole records only: they are written out together.

docs/decisions.md: A tag has at most 400 points.
"""

import os
import socket
import struct
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import Message  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event, SessionLog, SourceMetadata  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import (  # type: ignore[import-untyped]
    HistogramProto,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto  # type: ignore[import-untyped]
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto  # type: ignore[import-untyped]
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.text.plugin_data_pb2 import TextPluginData  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

Chart = Sequence[str] | tuple[str, str, str]

BUFFER = 2**20  # bytes of a file that are held; what one method writes is less, but for a picture
STATUS = {"finished": "STATUS_SUCCESS", "interrupted": "STATUS_FAILURE", "failed": "STATUS_FAILURE"}
WRITER = "hiertorch"  # what every file says at its beginning
KINDS = {bool: ("bool_value", "DATA_TYPE_BOOL"), str: ("string_value", "DATA_TYPE_STRING")}
NUMBER = ("number_value", "DATA_TYPE_FLOAT64")
CHANNELS = 4  # of a picture: red, green, blue, opacity


class EventFile:
    """A new event file in a folder, made if need be; every method writes one event, or a block of them.

    A tag's steps must increase, or the reader drops what it has.

    Raises:
        OSError: if the folder or the file can't be written; so does every other method.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        # Files of a folder are read in the order of their names: the time comes first.
        self.path = path / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter(self.path.open("xb", buffering=BUFFER))
        self._write(Event(file_version="brain.Event:2", source_metadata=SourceMetadata(writer=WRITER)))

    def begin(self, step: int, carried: Collection[Summary.Value] = ()) -> None:
        """Whatever an earlier file of this folder holds at this step or later, 0 unless a run is continued, is
        superseded; to be called first, with what `hiertorch.dashboard.earlier.carried` found before this file was made.
        """
        # One reader heeds the second start only, and the other one none: see Note [Two writers, one folder].
        start = Event(step=step, session_log=SessionLog(status=SessionLog.START))
        values = Event(step=step, summary=Summary(value=carried))
        for event in (start, start, values) if step else (start, values, start):  # at 0 they are blanks
            self._write(event)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Many tags in one event."""
        self._write(Event(step=step, summary=_numbers(values, values.values())))

    def block(self, tags: Sequence[str], steps: np.ndarray, values: np.ndarray, wall_times: np.ndarray) -> None:
        """What `scalars` writes of K steps, at once: values `(K, T)` of T tags, and seconds since 1970, `(K,)`."""
        if not len(tags):
            return
        with np.errstate(over="ignore"):  # what is too large for 32 bits is infinite
            numbers = np.asarray(values, dtype=np.float32).tolist()
        for step, row, time_ in zip(steps.tolist(), numbers, wall_times.tolist(), strict=True):
            self._records.write(Event(step=step, summary=_numbers(tags, row), wall_time=time_).SerializeToString())
        self._records.flush()

    def histogram(self, step: int, tag: str, values: np.ndarray, bins: int = 30) -> None:
        """Shown in Histograms, Distributions and Time Series: bins of equal width between the smallest and the largest
        value. Those that are not finite are left out, and nothing is written if none is left.
        """
        kept = np.asarray(values, dtype=np.float64).ravel()
        kept = kept[np.abs(kept) <= np.finfo(np.float32).max]  # the page has 32 bits
        if not kept.size:
            return
        low, high = float(kept.min()), float(kept.max())
        if high - low <= bins * float(np.spacing(np.float32(max(-low, high)))):
            counts, limits = np.array([kept.size]), np.array([high])  # too narrow to divide: the page draws a needle
        else:
            counts, limits = np.histogram(kept, bins)
            limits = limits[1:]  # on the left is the smallest value
        moments = {"min": low, "max": high, "num": kept.size, "sum": kept.sum(), "sum_squares": kept @ kept}
        made = HistogramProto(**moments, bucket_limit=limits.tolist(), bucket=counts.tolist())
        self._add(step, tag=tag, histo=made)

    def image(self, step: int, tag: str, png: bytes) -> None:
        """Shown in Images and Time Series, which keep the last ten of a tag."""
        width, height = struct.unpack(">II", png[16:24])  # of the PNG's first chunk
        made = Summary.Image(height=height, width=width, colorspace=CHANNELS, encoded_image_string=png)
        self._add(step, tag=tag, image=made)

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Shown in the Text tab."""
        content = TextPluginData(version=0).SerializeToString()
        self._tensor(step, tag, "text", content, "DT_STRING", [1], string_val=[markdown.encode()])

    def layout(self, categories: Mapping[str, Mapping[str, Chart]], closed: Collection[str] = ()) -> None:
        """The Custom Scalars tab: category -> title -> regexes of tags, or a tuple of tags `(value, lower, upper)`. A
        regex matches from the tag's beginning, not to its end. Closed categories open at a click.

        Bands appear in the page in reverse order, so they are written in reverse.
        """
        layout = layout_pb2.Layout()
        for title, charts in categories.items():
            made = [_chart(name, tags) for name, tags in charts.items()]
            bands = all(isinstance(tags, tuple) for tags in charts.values())
            chart = made[::-1] if bands else made
            layout.category.append(layout_pb2.Category(title=title, chart=chart, closed=title in closed))
        data = [layout.SerializeToString()]
        self._tensor(0, "custom_scalars__config__", "custom_scalars", b"", "DT_STRING", [], string_val=data)

    def hparams(self, values: Mapping[str, str | bool | float], metrics: Mapping[str, str]) -> None:
        """What the run was set to and is judged by, a row of the HParams tab: settings by name, and by tag of a scalar,
        whose last value the page shows, the title of its column.

        The page takes names and metrics from the first run that it finds, so all runs need the same ones.
        """
        session = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        experiment = api_pb2.Experiment()
        for name, value in values.items():
            field, kind = KINDS.get(type(value), NUMBER)
            setattr(session.hparams[name], field, value)
            experiment.hparam_infos.add(name=name, type=kind, differs=True)  # or the page sorts it behind the others
        for tag, title in metrics.items():
            experiment.metric_infos.add(name=api_pb2.MetricName(tag=tag), display_name=title)
        self._hparams("experiment", experiment=experiment)
        self._hparams("session_start_info", session_start_info=session)

    def session_end(self, status: str) -> None:
        """How the run of `hparams` ended: "finished", "interrupted" or "failed"; only a folder's first word counts."""
        end = plugin_data_pb2.SessionEndInfo(status=STATUS[status], end_time_secs=time.time())
        self._hparams("session_end_info", session_end_info=end)

    def close(self) -> None:
        """Nothing can be written after."""
        self._records.close()

    def _hparams(self, name: str, **content: Message) -> None:
        data = plugin_data_pb2.HParamsPluginData(version=0, **content).SerializeToString()
        self._tensor(0, f"_hparams_/{name}", "hparams", data, "DT_FLOAT", [0])

    def _tensor(
        self, step: int, tag: str, plugin: str, content: bytes, dtype: str, shape: Sequence[int], **values: object
    ) -> None:
        """What a plugin reads: its own content and a tensor."""
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))
        size = TensorShapeProto(dim=[TensorShapeProto.Dim(size=n) for n in shape])
        self._add(step, tag=tag, metadata=metadata, tensor=TensorProto(dtype=dtype, tensor_shape=size, **values))

    def _add(self, step: int, **value: object) -> None:
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(**value)])))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()


def _numbers(tags: Iterable[str], values: Iterable[float]) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, simple_value=x) for tag, x in zip(tags, values, strict=True)])


def _chart(title: str, tags: Chart) -> layout_pb2.Chart:
    if not isinstance(tags, tuple):
        return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
    series = layout_pb2.MarginChartContent.Series(value=tags[0], lower=tags[1], upper=tags[2])
    return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=[series]))
