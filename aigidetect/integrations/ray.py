"""More than one machine: Ray Data spreads the pictures, detectors score them, and the records end as Parquet.

    paths, or files as bytes  ->  Scorer, one detector in each actor  ->  a row for each input, failures included

Ray does what concerns machines: it places the actors, replaces those that die, and runs their part again. What a row says is
made by the code that makes the records of one process. Needs `pip install 'aigidetect[ray]'`.

References:
    Ray Data, https://docs.ray.io/en/latest/data/data.html
"""

from __future__ import annotations

import contextlib
import functools
import os
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..conventions import PARTS, record_columns, record_row
from ..detector import Detector
from ..errors import OutputError
from ..images import describe_source, load_image
from ..isolation import Isolation
from ..manifest import load_manifest
from ..pipeline import map_in_order
from ..prediction import Failure, Prediction
from ..prepare import prepare
from ..registry import default_detector, load_detector
from ..sources import iter_sources

# Rows of a block, which is what an actor takes, and loses when it dies, at once.
_ROWS = 1000
# Blocks for each core, so that no actor waits long for the last one.
_BLOCKS = 8


class Scorer:
    """Scores batches of Ray Data: a callable class for `map_batches(Scorer, batch_format="pyarrow", ...)`.

    Each actor loads its own detector. A row comes out for each row that went in, in the same order: never more, as folders
    and patterns are not searched here, and never less, as what cannot be scored has a row that says why.

    Args:
        detector: Name for `aigidetect.load_detector`, or a function without arguments that returns a Detector. Name the
            version (`"npr-ms-ca@1"`), so that all machines take the same one.
        paths: Column with the path of each picture, as text or as the bytes of the file system. Every machine has to see
            the files under these paths.
        files: Column with each file's content as bytes, such as `ray.data.read_binary_files` makes. Then nothing is opened,
            and `paths`, if there is such a column, only gives the records their `source`.
        device: Torch device; `"auto"` is CUDA where the actor has a GPU (`num_gpus`), else the CPU.
        fpr: See `aigidetect.Detector.predict`.
        stability: See `aigidetect.Detector.predict`.
        batch_size: Views that go through the network together.
        workers: Threads that decode.
        isolate: Seconds for each file, which then is decoded in `workers` processes beside the actor; see
            `aigidetect.isolation`. None: in the actor, which a decoder that crashes would end, again and again.

    Raises:
        ModuleNotFoundError: pyarrow, which Ray Data needs, is not installed.
    """

    def __init__(
        self,
        detector: str | Callable[[], Detector],
        *,
        paths: str = "path",
        files: str | None = None,
        device: str = "auto",
        fpr: float | None = None,
        stability: bool = False,
        batch_size: int = 16,
        workers: int = 2,
        isolate: float | None = None,
    ) -> None:
        self._schema = record_schema()
        self._detector = load_detector(detector, device=device) if isinstance(detector, str) else detector()
        self._detector.calibration.threshold(fpr)
        self._paths, self._files = paths, files
        self._batch_size, self._workers, self._fpr = batch_size, workers, fpr
        # The children live as long as the actor: starting them takes seconds.
        self._children = contextlib.ExitStack()
        load = self._children.enter_context(Isolation(workers, isolate)).load if isolate else load_image
        self._prepare = functools.partial(prepare, preprocess=self._detector.preprocess, load=load, stability=stability)

    def __call__(self, batch: Any) -> Any:
        """Scores one batch.

        Args:
            batch: pyarrow.Table with the columns named above; further ones are kept.

        Returns:
            pyarrow.Table with the columns of `record_schema`, then the further ones.

        Raises:
            ValueError: A column is missing, or a further one has the name of one of the record's.
            WeightsError: The network returned a number that is not finite.
        """
        import pyarrow as pa

        kept = self._further_columns(batch.column_names)
        items, names = self._inputs(batch)
        rows = []
        for record, name in zip(self._records(items), names, strict=True):
            row = record_row(record)
            row["source"] = _text(row["source"] if name is None else describe_source(name))
            rows.append(row)
        table = pa.Table.from_pylist(rows, schema=self._schema)
        for name in kept:
            table = table.append_column(batch.schema.field(name), batch.column(name))
        return table

    def _further_columns(self, found: list[str]) -> list[str]:
        needed = self._files or self._paths
        if needed not in found:
            raise ValueError(f"Expected a column {needed!r}, but the batch has {', '.join(found)}; name the right one.")
        kept = [name for name in found if name not in (self._paths, self._files)]
        if taken := sorted(set(kept) & set(self._schema.names)):
            raise ValueError(f"Column {taken[0]!r} would meet that of the records; rename or drop it before scoring.")
        return kept

    def _inputs(self, batch: Any) -> tuple[list[object], list[object]]:
        """What is scored, and what else names it in its record, or None."""
        names: list[object] = [None] * batch.num_rows
        if self._paths in batch.column_names:
            found = batch.column(self._paths).to_pylist()
            names = [os.fsdecode(path) if isinstance(path, bytes) else path for path in found]
        return (names if self._files is None else batch.column(self._files).to_pylist()), names

    def _records(self, items: list[object]) -> Iterator[Prediction | Failure]:
        # Not by `stream`, which makes several records of a path that turns out to be a folder.
        with contextlib.closing(map_in_order(self._prepare, items, self._workers)) as prepared:
            for record, _ in self._detector._records(prepared, self._batch_size, self._fpr):
                yield record


def score_files(
    source: object,
    output: str,
    *,
    detector: str | Callable[[], Detector] | None = None,
    actors: int | tuple[int, int] | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    fpr: float | None = None,
    recursive: bool = True,
    stability: bool = False,
    batch_size: int = 16,
    workers: int = 2,
    isolate: float | None = None,
) -> Any:
    """Scores files on all machines of the Ray cluster, and writes their records as Parquet.

    Paths go through Ray, pictures do not: the actors open them. The list of paths is made here and held in memory.

    Args:
        source: A path, a folder, a glob pattern, or an iterable of these; see `aigidetect.sources`.
        output: Folder for the Parquet files, or an address that pyarrow understands, which every machine can write to. Empty
            or not there yet.
        detector: See `Scorer`; None is the best detector whose weights are on this machine. A name is looked up here.
        actors: Number of detectors, or the least and the most of them. None: as many as Ray finds room for.
        num_cpus: Cores for each. Ray sets the threads of torch to this number.
        num_gpus: GPUs for each, where a part of 1 shares one. 0 means to compute on the CPU.
        fpr: See `Scorer`, also for what follows.
        recursive: Whether folders are searched to the bottom.
        stability: See `Scorer`.
        batch_size: See `Scorer`.
        workers: See `Scorer`.
        isolate: See `Scorer`.

    Returns:
        The ray.data.Dataset of the records as they are on the disk, one for each input, in no particular order.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        OutputError: `output` holds something, or not as many records as there were inputs.
        TypeError: An input is no path.
        ValueError: There are no inputs, or an argument is out of its range.
    """
    ray_data = _import_ray()
    if os.path.isdir(output) and os.listdir(output):
        raise OutputError(f"{output!r} is not empty, and records of two runs would mix; give a new folder.")
    blocks, total = _blocks(iter_sources(source, recursive=recursive))
    settings: dict[str, Any] = {"detector": _pinned(detector), "device": "cuda" if num_gpus else "auto", "fpr": fpr}
    settings |= {"stability": stability, "batch_size": batch_size, "workers": workers, "isolate": isolate}
    least, most = actors if isinstance(actors, tuple) else (actors or 1, actors)
    records = ray_data.from_arrow(blocks).map_batches(
        Scorer,
        fn_constructor_kwargs=settings,
        batch_format="pyarrow",
        batch_size=None,
        compute=ray_data.ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        udf_modifying_row_count=False,
    )
    records.write_parquet(output)
    written = ray_data.read_parquet(output)
    if (found := written.count()) != total:
        raise OutputError(f"{output!r} has {found} records of {total} inputs; score them again, into a new folder.")
    return written


def record_schema() -> Any:
    """The pyarrow.Schema of records: the columns of `Detector.to_frame`, all of which may be null.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Records for Ray need pyarrow: pip install 'aigidetect[ray]'", name="pyarrow") from error
    kinds = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}

    def arrow(hint: Any) -> Any:
        if get_origin(hint) in (Union, types.UnionType):
            hint = next(part for part in get_args(hint) if part is not type(None))
        if get_origin(hint) is Literal:
            return kinds[type(get_args(hint)[0])]
        return pa.list_(kinds[get_args(hint)[0]]) if get_origin(hint) is tuple else kinds[hint]

    hints = {"error": str, "message": str}
    for name, hint in get_type_hints(Prediction).items():
        parts = get_type_hints(PARTS[name]) if name in PARTS else {}
        hints |= {part if name == "image" else f"{name}_{part}": inner for part, inner in parts.items()} or {name: hint}
    return pa.schema([(name, arrow(hints[name])) for name in record_columns()])


def _blocks(inputs: Iterator[object]) -> tuple[list[Any], int]:
    """Tables of paths, one a block, and the number of paths."""
    import pyarrow as pa
    import ray

    paths = []
    for item in inputs:
        if not isinstance(item, (str, os.PathLike)):
            raise TypeError(f"Expected paths, but got {type(item).__name__}; for files in memory, use Scorer(files=...).")
        # Arrow's text is UTF-8, which names of files need not be.
        paths.append(os.fsencode(item))
    if not paths:
        raise ValueError("No pictures found; give files, or folders that hold some.")
    if not ray.is_initialized():
        ray.init()
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    rows = min(_ROWS, max(1, len(paths) // (_BLOCKS * cores)))
    table = pa.table({"path": pa.array(paths, pa.large_binary())})
    return [table.slice(first, rows) for first in range(0, len(paths), rows)], len(paths)


def _pinned(detector: str | Callable[[], Detector] | None) -> str | Callable[[], Detector]:
    """A name with its version, so that machines with other weights at hand do not take other ones."""
    if detector is None:
        return default_detector()
    if isinstance(detector, str) and ":" not in detector:
        return load_manifest().get(detector).full_name
    return detector


def _text(source: str) -> str:
    """What of a name is no UTF-8 is escaped, as `\\udcff`."""
    return source.encode("utf-8", "backslashreplace").decode("utf-8")


def _import_ray() -> Any:
    try:
        import ray.data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"This needs Ray Data: pip install 'aigidetect[ray]' ({error})", name="ray") from error
    return ray.data
