"""Heat maps of a run: a folder with one PNG for each scored picture."""

from __future__ import annotations

import os
import sys

from .detector import Detector
from .errors import ImageError, OutputError
from .explain import find_explainers
from .lines import printable

_LONGEST_NAME = 200  # bytes; file systems allow 255


class HeatmapFolder:
    """The folder that takes the heat maps.

    A file is called by the number of the picture's record and by its name, `000012-cat.jpg.png`: so two pictures of one name
    get two files, and the same run again writes the same ones.

    Args:
        detector: What scored the pictures.
        folder: Where; made if there is none.

    Attributes:
        missing: Number of pictures so far without a heat map; why was said on stderr.

    Raises:
        ExplanationError: There are no heat maps of this detector.
        OutputError: The folder cannot be made.
    """

    def __init__(self, detector: Detector, folder: str | os.PathLike[str]) -> None:
        find_explainers(detector.network, detector.preprocess)
        self.folder = os.fspath(folder)
        self.missing = 0
        self._detector = detector
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise _cannot_write(self.folder, error) from error

    def write(self, number: int, source: str) -> None:
        """Writes the heat map of one picture.

        Args:
            number: Of its record, from 1 on.
            source: Path of the picture.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            found = self._detector.explain(source)
        except ImageError as error:
            # It was scored a moment ago, so it has changed since.
            print(f"aigidetect: no heat map of {printable(source)}: {printable(str(error))}", file=sys.stderr)
            self.missing += 1
            return
        name = os.fsdecode(os.fsencode(os.path.basename(source))[:_LONGEST_NAME])
        path = os.path.join(self.folder, f"{number:06}-{name}.png")
        try:
            found.save(path)
        except OSError as error:
            raise _cannot_write(path, error) from error


def _cannot_write(path: str, error: OSError) -> OutputError:
    return OutputError(f"Cannot write {path!r}: {error.strerror or error}. Free some space, or give another folder.")
