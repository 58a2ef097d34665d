"""Event files: what is written is what TensorBoard reads, and a second writer leaves no stale point behind."""

import io
import math
import random
import time

import numpy as np
import pytest
import torch
from PIL import Image
from server import Page, serve, until
from tensorboard import data_compat  # type: ignore[import-untyped]
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    STORE_EVERYTHING_SIZE_GUIDANCE,
    EventAccumulator,
)
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import metadata as hparams_metadata  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from tensorboard.util.tensor_util import make_ndarray  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard import summary as reference

from hiertorch.dashboard import earlier
from hiertorch.dashboard.records import EventFile

ODD = [0.0, -0.0, 1.5, -1e-45, 1e300, -1e300, 3.4028235e38, math.inf, -math.inf, math.nan, 0.1]


def events(file):
    """What TensorBoard's own reader, which checks both checksums, finds in a file: parsed events after the first."""
    found = [Event.FromString(data) for data in RawEventFileLoader(str(file.path)).Load()]
    assert found[0].file_version == "brain.Event:2"
    return found[1:]


def value(file):
    """The only value of the only event."""
    (event,) = events(file)
    (only,) = event.summary.value
    return event.step, only


def load(folder):
    accumulator = EventAccumulator(str(folder), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE)
    accumulator.Reload()
    return accumulator


def points(folder, tag):
    return [(event.step, event.value) for event in load(folder).Scalars(tag)]


def png(size=3):
    file = io.BytesIO()
    Image.new("RGBA", (size, size + 1)).save(file, "PNG")
    return file.getvalue()


# Records


@pytest.mark.parametrize("tags", [["a"], ["trace/mu", "Å [Zürich, 7]"], [f"trace/{'x' * k}" for k in range(150)]])
def test_a_block_is_many_scalars(tmp_path, tags):
    generator = np.random.default_rng(1)
    steps = np.array([0, 1, 127, 128, 16384, 2**31, 2**35 - 1])
    values = generator.normal(size=(len(steps), len(tags)))
    values.flat[: len(ODD)] = ODD[: values.size]
    times = 1.7e9 + generator.random(len(steps))
    file = EventFile(tmp_path)
    file.block(tags, steps, values, times)
    found = events(file)
    assert [(event.step, event.wall_time) for event in found] == list(zip(steps.tolist(), times.tolist(), strict=True))
    with np.errstate(over="ignore"):
        expected = values.astype(np.float32)
    for event, row in zip(found, expected, strict=True):
        assert [value.tag for value in event.summary.value] == tags
        np.testing.assert_array_equal(np.float32([value.simple_value for value in event.summary.value]), row)


def test_readers_meet_whole_records_only(tmp_path, monkeypatch):
    """What a method writes comes to the disk at once, whatever its size, and nothing of it before."""
    file, writes = EventFile(tmp_path), []
    size = file.path.stat().st_size
    write = RecordWriter.write

    def watched(writer, data):
        write(writer, data)
        writes.append(file.path.stat().st_size)

    monkeypatch.setattr(RecordWriter, "write", watched)
    file.block([f"trace/{k}" for k in range(25)], np.arange(400), np.zeros((400, 25)), np.ones(400))
    assert set(writes) == {size} and file.path.stat().st_size > 100 * 1024
    assert len(events(file)) == 400


def test_an_empty_block_writes_nothing(tmp_path):
    file = EventFile(tmp_path)
    file.block([], np.arange(3), np.ones((3, 0)), np.ones(3))
    file.block(["a"], np.arange(0), np.ones((0, 1)), np.ones(0))
    assert events(file) == []


# Histograms and pictures


@pytest.mark.parametrize("bins", [30, 7])
def test_histograms_are_those_of_torch(tmp_path, bins):
    values = np.random.default_rng(2).standard_t(3, size=(4, 500))
    file = EventFile(tmp_path)
    file.histogram(5, "posterior/mu", np.where(values > 6, np.inf, np.where(values < -6, np.nan, values)), bins)
    step, found = value(file)
    kept = values[abs(values) <= 6]
    expected = reference.make_histogram(kept, bins)
    assert (step, found.tag) == (5, "posterior/mu")
    # Torch puts an empty bar on the left, where the page wants none.
    assert (list(expected.bucket)[1:], list(expected.bucket_limit)[1:]) == (
        list(found.histo.bucket),
        list(found.histo.bucket_limit),
    )
    for name in ("min", "max", "num", "sum", "sum_squares"):
        assert getattr(found.histo, name) == pytest.approx(getattr(expected, name), rel=1e-12), name
    theirs = reference.histogram("posterior/mu", kept, bins).value[0]
    bars, their_bars = (make_ndarray(data_compat.migrate_value(x).tensor) for x in (found, theirs))
    np.testing.assert_array_equal(bars, their_bars)


@pytest.mark.parametrize("constant", [0.0, 2.5, -1e-30, 1e30])
def test_a_histogram_of_one_value_is_one_bar(tmp_path, constant):
    for spread in (0.0, 1e-9):  # 32 bits see no spread
        file = EventFile(tmp_path / str(spread))
        file.histogram(1, "a", constant * (1 + spread * np.arange(100)))
        ((left, right, count),) = make_ndarray(data_compat.migrate_value(value(file)[1]).tensor)
        assert count == 100
        assert left == pytest.approx(constant, rel=1e-6) and right == pytest.approx(constant, rel=1e-6)


def test_a_histogram_of_nothing_finite_is_not_written(tmp_path):
    file = EventFile(tmp_path)
    for values in (np.zeros(0), np.full(3, np.nan), np.array([np.inf, -np.inf, 1e39])):
        file.histogram(1, "a", values)
    assert events(file) == []


def test_pictures(tmp_path):
    file = EventFile(tmp_path)
    file.image(9, "figures/rank", png(5))
    step, found = value(file)
    assert (step, found.tag) == (9, "figures/rank")
    assert found.image.encoded_image_string == png(5)
    theirs = reference.image("a", torch.zeros(4, 6, 5), dataformats="CHW").value[0].image
    for made in (found.image, theirs):
        assert (made.width, made.height, made.colorspace) == (5, 6, 4)


# The page's tabs


def test_hparams_are_those_of_torch_with_titles_and_kinds(tmp_path):
    settings = {"model": "VaryingSlopes", "kernel": "joint", "seed": "7", "chains": 16, "collapse": True}
    file = EventFile(tmp_path)
    file.hparams(settings, {"metric/rhat_max": "R-hat", "metric/ess_min": "ESS"})
    found = {v.tag: v.metadata.plugin_data for event in events(file) for v in event.summary.value}
    assert {data.plugin_name for data in found.values()} == {"hparams"}
    session = hparams_metadata.parse_session_start_info_plugin_data(found["_hparams_/session_start_info"].content)
    experiment = hparams_metadata.parse_experiment_plugin_data(found["_hparams_/experiment"].content)
    kinds = {info.name: info.type for info in experiment.hparam_infos}
    assert all(info.differs for info in experiment.hparam_infos)
    titles = {info.name.tag: info.display_name for info in experiment.metric_infos}
    assert titles == {"metric/rhat_max": "R-hat", "metric/ess_min": "ESS"}
    theirs = [summary.value[0].metadata.plugin_data.content for summary in reference.hparams(settings, titles)]
    their_experiment = hparams_metadata.parse_experiment_plugin_data(theirs[0])
    their_session = hparams_metadata.parse_session_start_info_plugin_data(theirs[1])
    assert session.hparams["collapse"].bool_value is True  # a number in theirs
    for info in their_experiment.hparam_infos:
        if info.name != "collapse":
            assert kinds[info.name] == info.type
            assert session.hparams[info.name] == their_session.hparams[info.name]
    assert set(kinds) == set(settings) == set(session.hparams)
    assert abs(session.start_time_secs - time.time()) < 100


@pytest.mark.parametrize(("status", "shown"), [("finished", 1), ("interrupted", 2), ("failed", 2)])
def test_the_end_of_a_session(tmp_path, status, shown):
    file = EventFile(tmp_path)
    file.session_end(status)
    _, found = value(file)
    end = hparams_metadata.parse_session_end_info_plugin_data(found.metadata.plugin_data.content)
    assert (found.tag, end.status) == ("_hparams_/session_end_info", shown)


def test_categories_can_be_closed(tmp_path):
    file = EventFile(tmp_path)
    file.layout({"1 Health": {"a": ["a$"]}, "4 Throughput": {"b": ["b$"]}}, closed=["4 Throughput"])
    layout = layout_pb2.Layout.FromString(value(file)[1].tensor.string_val[0])
    assert [(category.title, category.closed) for category in layout.category] == [
        ("1 Health", False),
        ("4 Throughput", True),
    ]


# What a folder holds


def last_values(folder, before=10**9):
    """Tag -> the number of every scalar that is carried over, without blanks."""
    found = {}
    for carried in earlier.carried(folder, before):
        value = data_compat.migrate_value(carried)
        if value.metadata.plugin_data.plugin_name in ("scalars", ""):  # only a tag's first value need say it
            numbers = make_ndarray(value.tensor)
            if numbers.size == 1 and numbers.dtype.kind == "f" and not np.isnan(numbers):
                found[carried.tag] = numbers.item()
    return found


def test_last_values_are_what_tensorboard_keeps(tmp_path):
    """Five writers, each superseding some of the earlier ones: against TensorBoard's accumulator."""
    generator = random.Random(3)
    for case in range(30):
        folder = tmp_path / str(case)
        begin = 0
        for _ in range(5):
            file = EventFile(folder)
            file.begin(begin)
            for step in range(begin + 1, begin + generator.randrange(2, 30)):
                tags = [tag for tag in "abc" if generator.random() < (0.9 if tag == "a" else 0.1)]
                file.scalars(step, {tag: generator.random() for tag in tags})
            file.text(step, "d", "no scalar")
            file.close()
            begin = generator.randrange(1, step + 1)
        accumulator = load(folder)
        kept = {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}
        for before in (10**9, 0, begin - 3, begin, begin + 3):
            shown = {t: [p for p in ps if p[0] <= before] for t, ps in kept.items()}
            assert last_values(folder, before) == {tag: ps[-1][1] for tag, ps in shown.items() if ps}


def test_the_last_written_point_counts(tmp_path):
    """Without a start of a session: the reader drops what it has at a point's step and later."""
    file = EventFile(tmp_path)
    for step, number in ((10, 1.0), (20, 2.0), (30, 3.0), (20, 4.0)):
        file.scalars(step, {"a": number})
    assert last_values(tmp_path) == {"a": 4.0}
    assert last_values(tmp_path, 19) == {"a": 1.0}


def test_files_of_other_writers(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("old", step + 0.5, step)
            writer.add_scalar("new", step + 0.25, step, new_style=True)
            writer.add_scalar("double", step + 0.125, step, new_style=True, double_precision=True)
            writer.add_text("text", "3.5", step)
            writer.add_histogram("h", np.arange(9.0), step)
            writer.add_tensor("tensor", torch.tensor([1.0, 2.0]), step)
    assert last_values(tmp_path, 3) == {"old": 3.5, "new": 3.25, "double": 3.125}


def test_a_folder_without_files(tmp_path):
    EventFile(tmp_path / "run" / "chain_0").scalars(1, {"a": 1.0})
    for folder in (tmp_path / "run", tmp_path / "nowhere"):
        assert last_values(folder) == {}
        assert earlier.carried(folder) == []


def test_a_file_counts_up_to_its_damage(tmp_path):
    file = EventFile(tmp_path)
    ends = []
    for step in range(1, 6):
        file.scalars(step, {"a": float(step), "b": -1.0})
        ends.append(file.path.stat().st_size)
    whole = file.path.read_bytes()
    for cut in range(ends[2], ends[3]):  # anywhere in the fourth record
        file.path.write_bytes(whole[:cut])
        assert last_values(tmp_path) == {"a": 3.0, "b": -1.0}
    for place in range(ends[2], ends[2] + 12):  # in its head
        file.path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        assert last_values(tmp_path)["a"] == 3.0
    no_event = io.BytesIO()
    RecordWriter(no_event).write(b"\xff" * 40)
    for junk in (no_event.getvalue(), b"\0" * 100, random.Random(1).randbytes(1000)):
        file.path.write_bytes(whole[: ends[2]] + junk + whole[ends[2] :])
        assert last_values(tmp_path)["a"] == 3.0
    for size in range(12):
        file.path.write_bytes(whole[:size])
        assert last_values(tmp_path) == {}


def test_a_file_after_a_damaged_one_counts(tmp_path):
    first = EventFile(tmp_path)
    first.scalars(1, {"a": 1.0})
    first.path.write_bytes(first.path.read_bytes()[:-1])
    EventFile(tmp_path).scalars(2, {"b": 2.0})
    assert last_values(tmp_path) == {"b": 2.0}


def test_removing_leaves_what_is_no_event_file(tmp_path):
    run = tmp_path / "run"
    for folder in (run, run, run / "chain_0", run / "chain_1", run / "chain_2", run / "other", tmp_path):
        EventFile(folder).scalars(1, {"a": 1.0})
    (run / "draws.pt").write_text("mine")
    (run / "chain_2" / "notes.txt").write_text("mine")
    files = earlier.event_files(run)
    assert [path.parent.name for path in files] == ["run", "run", "chain_0", "chain_1", "chain_2"]
    assert files == sorted(files[:2]) + files[2:]
    earlier.remove(run, chains=1)
    left = {str(path.relative_to(run)): path.stat().st_size for path in run.rglob("*") if path.is_file()}
    sizes = {files[1].name: 0, f"chain_0/{files[2].name}": 0, "draws.pt": 4, "chain_2/notes.txt": 4}
    assert left.pop(next(name for name in left if name.startswith("other/"))) > 0
    assert left == sizes
    assert not (run / "chain_1").exists()
    assert last_values(run) == {}
    assert last_values(tmp_path) == {"a": 1.0}
    earlier.remove(tmp_path / "nowhere")


# Two writers, one folder


def begin_run(folder, kill=True):
    """To step 100, and killed while it writes: dense and sparse curves, and some of everything else."""
    file = EventFile(folder)
    file.begin(0)
    file.text(0, "1_run/config", "the settings")
    file.layout({"Health": {"dense": ["dense$"]}})
    file.hparams({"model": "first"}, {"dense": "D"})
    steps = np.arange(1, 101)
    file.block(["dense"], steps, steps[:, None] * 1.0, np.full(100, time.time()))
    for step in (30, 60, 90):
        file.scalars(step, {"sparse": float(step)})
        file.text(step, "2_summary/verdict", f"verdict {step}")
        file.histogram(step, "posterior/mu", np.arange(step))
        file.image(step, "figures/rank", png())
    file.scalars(70, {"late": 70.0})
    whole = file.path.stat().st_size
    file.scalars(101, {"dense": 101.0, "sparse": 101.0})
    file.close()
    if kill:
        data = file.path.read_bytes()
        file.path.write_bytes(data[: (whole + len(data)) // 2])


def continue_run(folder, step=60):
    carried = earlier.carried(folder, step)
    file = EventFile(folder)
    file.begin(step, carried)
    steps = np.arange(step + 1, 151)
    file.block(["dense"], steps, steps[:, None] * -1.0, np.full(len(steps), time.time()))
    for step in (90, 120, 150):
        file.scalars(step, {"sparse": -float(step)})
    file.scalars(150, {"end": 0.0})
    file.close()


def replace_run(folder):
    """Nothing of `sparse`, `late` and the histogram yet."""
    carried = earlier.carried(folder)
    earlier.remove(folder)
    file = EventFile(folder)
    file.begin(0, carried)
    file.text(0, "1_run/config", "other settings")
    for step in (10, 20):
        file.scalars(step, {"dense": -float(step)})
    file.scalars(20, {"end": 0.0})
    return file


DENSE = [(step, float(step if step <= 60 else -step)) for step in range(1, 151)]
SPARSE = [(30, 30.0), (60, 60.0), (90, -90.0), (120, -120.0), (150, -150.0)]


def test_continued_curves_have_no_doubled_and_no_stale_point(tmp_path):
    begin_run(tmp_path)
    continue_run(tmp_path)
    assert points(tmp_path, "dense") == DENSE
    assert points(tmp_path, "sparse") == SPARSE
    assert points(tmp_path, "late")[0][0] == 60 and math.isnan(points(tmp_path, "late")[0][1])
    kept = load(tmp_path)
    assert [event.step for event in kept.Histograms("posterior/mu")] == [30, 60]
    assert [event.step for event in kept.Images("figures/rank")] == [30, 60]


def test_what_is_carried(tmp_path):
    begin_run(tmp_path)
    kinds = {
        "dense": "simple_value",
        "sparse": "simple_value",
        "late": "simple_value",
        "1_run/config": "tensor",
        "2_summary/verdict": "tensor",
        "posterior/mu": "histo",
        "figures/rank": "image",
    }
    blanks = {v.tag: v for v in earlier.carried(tmp_path)}
    at_60 = {v.tag: v for v in earlier.carried(tmp_path, 60)}
    for carried in (blanks, at_60):
        assert {tag: v.WhichOneof("value") for tag, v in carried.items()} == kinds
    assert [blanks[tag].simple_value for tag in ("dense", "sparse", "late")] == pytest.approx(
        [math.nan] * 3, nan_ok=True
    )
    assert (at_60["dense"].simple_value, at_60["sparse"].simple_value) == (60.0, 60.0)
    assert math.isnan(at_60["late"].simple_value)
    assert at_60["posterior/mu"].histo.num == 60 and blanks["posterior/mu"].histo.num == 0
    assert at_60["2_summary/verdict"].tensor.string_val[0] == b"verdict 60"
    assert blanks["2_summary/verdict"].tensor.string_val[0] == b""
    pixel = Image.open(io.BytesIO(blanks["figures/rank"].image.encoded_image_string))
    assert (pixel.size, pixel.mode, pixel.getpixel((0, 0))) == ((1, 1), "RGBA", (0, 0, 0, 0))


def test_a_run_in_the_place_of_another(tmp_path):
    begin_run(tmp_path)
    replace_run(tmp_path).close()
    kept = load(tmp_path)
    assert points(tmp_path, "dense") == [(10, -10.0), (20, -20.0)]
    assert [points(tmp_path, tag) for tag in ("sparse", "late")] == [[], []]
    assert kept.Tensors("1_run/config")[-1].tensor_proto.string_val[0] == b"other settings"
    assert kept.Histograms("posterior/mu") == kept.Images("figures/rank") == []


# The server


def config(server):
    return " ".join(text for _, text in server.texts("1_run/config"))


def judge_continued(server):
    until(lambda: server.points("end"))
    assert server.points("dense") == [tuple(point) for point in DENSE]
    assert server.points("sparse") == SPARSE
    assert server.points("late") == [(60, "NaN")]
    assert server.steps("text", "2_summary/verdict") == [30, 60]
    assert server.steps("histograms", "posterior/mu") == [30, 60]
    assert server.steps("images", "figures/rank", sample=0) == [30, 60]
    assert "the settings" in config(server)
    assert [category["title"] for category in server.get("plugin/custom_scalars/layout")["category"]] == ["Health"]


def judge_replaced(server, fast):
    until(lambda: server.points("end"))
    # The fast reader needs the blanks, and shows them; a page draws nothing for them.
    blank = [(0, "NaN")] if fast else []
    assert server.points("dense") == [*blank, (10, -10.0), (20, -20.0)]
    assert server.points("sparse") == server.points("late") == blank
    assert server.steps("histograms", "posterior/mu") == []
    assert server.steps("images", "figures/rank", sample=0) == server.steps("text", "2_summary/verdict") == [0] * fast
    assert "other settings" in config(server) and "the settings" not in config(server)


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False])
def test_both_readers_show_a_continued_run(tmp_path, fast):
    begin_run(tmp_path / "run")
    with serve(tmp_path, fast) as server:  # it goes on while somebody looks
        until(lambda: len(server.points("dense")) == 100)
        continue_run(tmp_path / "run")
        judge_continued(server)
    with serve(tmp_path, fast) as server:
        judge_continued(server)


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False])
def test_both_readers_show_a_run_in_the_place_of_another(tmp_path, fast):
    begin_run(tmp_path / "run")
    EventFile(tmp_path / "run" / "chain_1").scalars(1, {"trace/mu": 1.0})
    with serve(tmp_path, fast) as server:
        until(lambda: len(server.points("dense")) == 100 and server.points("trace/mu", "run/chain_1"))
        file = replace_run(tmp_path / "run")
        judge_replaced(server, fast)
        until(lambda: server.get("runs") == ["run"])
        file.scalars(30, {"sparse": 3.0})
        file.close()
        until(lambda: server.points("sparse")[-1:] == [(30, 3.0)])


@pytest.mark.parametrize("fast", [True, False])
def test_both_readers_show_one_that_continues_another_writers_run(tmp_path, fast):
    """Whose session never started."""
    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step in range(1, 101):
            writer.add_scalar("dense", float(step), step)
            if step % 30 == 0:
                writer.add_scalar("sparse", float(step), step, new_style=True)
    continue_run(tmp_path / "run")
    with serve(tmp_path, fast) as server:
        until(lambda: server.points("end"))
        assert server.points("dense") == [tuple(point) for point in DENSE]
        assert server.points("sparse") == SPARSE


@pytest.mark.slow
@pytest.mark.browser
def test_a_page_draws_blanks_without_a_complaint(tmp_path, browser):
    begin_run(tmp_path / "run")
    file = replace_run(tmp_path / "run")
    for step in (30, 40):
        file.histogram(step, "posterior/mu", np.arange(step))
        file.histogram(step, "posterior/constant", np.full(9, 2.5))
    page = Page(browser)
    with serve(tmp_path) as server:
        until(lambda: server.steps("histograms", "posterior/constant") == [30, 40])
        for tab, least in (
            ("scalars&_smoothingWeight=0", 2),
            ("histograms", 2),
            ("distributions", 2),
            ("timeseries", 2),
        ):
            page.open(f"{server.address}/#{tab}")
            until(lambda least=least: sum(len(line) > 20 for line in page.see("path", "d")) >= least)
            assert not [line for line in page.see("path", "d") if "NaN" in line or "undefined" in line]
            assert page.complaints() == []
