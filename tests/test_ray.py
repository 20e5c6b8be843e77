"""Records of Ray Data: the callable by itself, and a real Ray with two workers, one of which is killed."""

import contextlib
import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from aigidetect import Calibration, Detector, Tiles
from aigidetect.conventions import record_columns, record_row
from aigidetect.integrations.ray import Scorer, record_schema, score_files

from .conftest import POINTS, Toy, array, encoded

NEEDS_ARROW = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow: pip install 'aigidetect[ray]'"
)
PICTURES = 60


def toy():
    return Detector(Toy(), Tiles(size=32, max_tiles=4), Calibration(temperature=0.05, thresholds=POINTS), name="toy@1")


def rows_of(detector, items, **options):
    """What `predict` says of each input, as a row with all columns."""
    empty = dict.fromkeys(record_columns())
    return [empty | record_row(record) for record in detector.predict(items, **options)]


@pytest.fixture
def odd(folder):
    """Paths that are pictures, broken, missing, and a folder; a row is due for each."""
    return [str(path) for path in (folder / "a.jpg", folder / "c.png", folder / "gone.jpg", folder, folder / "b.png")]


@NEEDS_ARROW
def test_a_row_for_each_path_says_what_predict_says(odd):
    import pyarrow as pa

    table = Scorer(toy, workers=3)(pa.table({"path": odd}))
    assert table.schema == record_schema() and table.column_names == record_columns()
    assert table.to_pylist() == rows_of(toy(), odd)
    assert table.column("ok").to_pylist() == [True, False, False, False, True]


@NEEDS_ARROW
def test_options_reach_the_records(odd):
    import pyarrow as pa

    table = Scorer(toy, fpr=0.01, stability=True)(pa.table({"path": odd[:2]}))
    assert table.to_pylist() == rows_of(toy(), odd[:2], fpr=0.01, stability=True)
    assert table.column("stability_variants").to_pylist() == [5, None]
    with pytest.raises(ValueError, match=r"0\.01"):
        Scorer(toy, fpr=0.3)


@NEEDS_ARROW
def test_files_as_bytes_get_the_scores_of_their_paths_and_other_columns_stay(odd):
    import pyarrow as pa

    good = [odd[0], odd[4]]
    contents = [Path(path).read_bytes() for path in good]
    batch = pa.table({"label": [1, 0, 7], "bytes": [*contents, None], "path": [*good, "s3://bucket/x.jpg"]})
    table = Scorer(toy, files="bytes")(batch)
    assert table.column_names == [*record_columns(), "label"]
    *scored, missing = table.drop_columns("label").to_pylist()
    assert scored == rows_of(toy(), good) and table.column("label").to_pylist() == [1, 0, 7]
    assert (missing["source"], missing["ok"], missing["error"]) == ("s3://bucket/x.jpg", False, "TypeError")
    assert Scorer(toy, files="bytes")(batch.select(["bytes"])).column("source")[0].as_py() == "<bytes>"


@NEEDS_ARROW
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are UTF-8 there")
def test_a_name_that_is_no_utf_8_is_scored_and_written_escaped(tmp_path):
    import pyarrow as pa

    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(encoded(array(), "png"))
    [row] = Scorer(toy)(pa.table({"path": pa.array([name], pa.binary())})).to_pylist()
    assert row["ok"] and row["source"] == f"{tmp_path}/caf\\udce9.png"


@NEEDS_ARROW
def test_an_empty_batch_has_the_columns_of_a_full_one():
    import pyarrow as pa

    assert Scorer(toy)(pa.table({"path": pa.array([], pa.string())})).schema == record_schema()


@NEEDS_ARROW
def test_wrong_columns_are_named():
    import pyarrow as pa

    with pytest.raises(ValueError, match="'path', but the batch has file"):
        Scorer(toy)(pa.table({"file": ["a.jpg"]}))
    with pytest.raises(ValueError, match="'verdict' would meet"):
        Scorer(toy)(pa.table({"path": ["a.jpg"], "verdict": ["ai"]}))


@pytest.mark.parametrize(("library", "call"), [("pyarrow", lambda: Scorer(toy)), ("ray", lambda: score_files("a", "b"))])
def test_without_the_library_the_error_says_how_to_get_it(library, call, monkeypatch):
    for name in ("pyarrow", "ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'aigidetect\[ray\]'") as caught:
        call()
    assert caught.value.name == library


@pytest.fixture(scope="module")
def cluster():
    """A real Ray on this machine, of two cores."""
    with pytest.MonkeyPatch.context() as patch:
        # Workers would give way to every other program, and Ray would report its use to its makers.
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
        ray = pytest.importorskip("ray", reason="needs Ray Data: pip install 'aigidetect[ray]'")
        pytest.importorskip("pyarrow", reason="needs Ray Data: pip install 'aigidetect[ray]'")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)
        yield ray
        ray.shutdown()


@pytest.fixture
def many(tmp_path):
    root = tmp_path / "many"
    root.mkdir()
    for i in range(PICTURES):
        content = encoded(array(40 + i, 50, seed=i), "png")
        (root / f"{i:03}.png").write_bytes(content[:-300] if i % 20 == 7 else content)
    return [str(root), str(root / "gone.jpg")]


def expected_rows(many):
    return {row["source"]: row for row in rows_of(toy(), [*map(str, sorted(Path(many[0]).iterdir())), many[1]])}


def same_rows(found, expected):
    assert sorted(row["source"] for row in found) == sorted(expected)  # each exactly once
    for row in found:
        wanted = expected[row["source"]]
        for column in ("logit", "probability", "view_logits"):
            assert row.pop(column) == pytest.approx(wanted[column], abs=1e-5), column
        assert row == {column: wanted[column] for column in row}


def logged_toy(folder):
    """A function that makes the toy detector; each picture takes a moment and is noted under the id of its process."""

    def make():
        detector = toy()
        preprocess = detector.preprocess

        class Logged:
            def __call__(self, pixels):
                with open(f"{folder}/{os.getpid()}", "a") as file:
                    file.write(".")
                time.sleep(0.1)
                return preprocess(pixels)

        detector.preprocess = Logged()
        return detector

    return make


def kill_one(folder, done):
    """Kills the first process that has scored a few pictures; returns its id."""
    while not done.is_set():
        for path in folder.iterdir():
            if path.stat().st_size >= 3:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(path.name), signal.SIGKILL)
                return
        time.sleep(0.02)


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_record_and_doubles_none(cluster, many, tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    done = threading.Event()
    killer = threading.Thread(target=kill_one, args=(log, done), daemon=True)
    killer.start()
    try:
        # By value: the workers cannot import the tests.
        cluster.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        cluster.cloudpickle.register_pickle_by_value(sys.modules[Toy.__module__])
        records = score_files(many, str(tmp_path / "out"), detector=logged_toy(str(log)), actors=2)
    finally:
        done.set()
    assert len(list(log.iterdir())) >= 3, "no process took the place of the one that was killed"
    expected = expected_rows(many)
    found = records.take_all()
    same_rows(found, expected)
    failed = [row for row in found if not row["ok"]]
    assert len(failed) == 4 and {row["error"] for row in failed} <= {"ImageTruncated", "ImageError"}
    with pytest.raises(OSError, match="not empty"):
        score_files(many, str(tmp_path / "out"), detector=toy)


@pytest.mark.ray
@pytest.mark.slow
def test_files_that_ray_reads_and_a_detector_by_name(cluster, tmp_path):
    import aigidetect

    examples = Path(__file__).parent.parent / "examples" / "images"
    paths = sorted(map(str, examples.glob("c*.jpg")))
    data = cluster.data.read_binary_files(paths, include_paths=True)
    scored = data.map_batches(
        Scorer,
        fn_constructor_args=["npr-ms-ca@1"],
        fn_constructor_kwargs={"files": "bytes"},
        batch_format="pyarrow",
        compute=cluster.data.ActorPoolStrategy(size=1),
    ).take_all()
    detector = aigidetect.load_detector("npr-ms-ca", device="cpu")
    same_rows(scored, {row["source"]: row for row in rows_of(detector, paths)})


@pytest.mark.ray
@pytest.mark.slow
def test_inputs_that_are_no_paths_and_no_inputs_are_refused(cluster, tmp_path):
    with pytest.raises(TypeError, match="bytes"):
        score_files([b"no path"], str(tmp_path / "out"), detector=toy)
    with pytest.raises(ValueError, match="No pictures"):
        score_files(str(tmp_path), str(tmp_path / "out"), detector=toy)
