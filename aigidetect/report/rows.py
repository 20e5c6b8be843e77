"""One record -> its row of the page. Names and messages come from strangers, and are escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from ..errors import ImageError
from ..explain import Explanation
from ..lines import printable
from ..prediction import Failure, ImageInfo, Prediction
from ..prepare import Load

THUMBNAIL = 96  # most pixels a side
HEATMAP = 320

_RANK = {"ai": 0, "unsure": 1, "real": 2}  # in which order verdicts are sorted
Record = Prediction | Failure


@dataclass(frozen=True)
class RowMaker:
    """What makes rows.

    Attributes:
        load: Opens a picture for its thumbnail.
        explain: Pixels -> heat map; None: no heat maps.
        spread: Whether there is a column for the interval over draws of the weights.
    """

    load: Load
    explain: Callable[[object], Explanation] | None
    spread: bool

    def __call__(self, numbered: tuple[int, Record]) -> tuple[Record, str]:
        """A record with its number, and it with its row, with a newline."""
        number, record = numbered
        cells = self._scored(record) if isinstance(record, Prediction) else self._failed(record)
        name = f'<th scope="row">{escaped(record.source)}</th>'
        verdict = f' data-verdict="{record.verdict}"' if isinstance(record, Prediction) else ""
        first, rest = cells
        return record, f'<tr{verdict}><td data-key="{number}">{number}</td>{first}{name}{rest}</tr>\n'

    def _failed(self, record: Failure) -> tuple[str, str]:
        return "", f"<td>{escaped(record.error)}</td><td>{escaped(record.message)}</td>"

    def _scored(self, record: Prediction) -> tuple[str, str]:
        name = escaped(record.source)
        picture, button = self._look(record.source, name)
        image = record.image
        cells = [
            f'<td data-key="{_RANK[record.verdict]}"><span class="{record.verdict}">{record.verdict}</span></td>',
            f'<td data-key="{record.probability:.6f}">{record.probability:.3f}</td>',
        ]
        if self.spread:
            found = record.uncertainty
            cells.append(f'<td data-key="{found.low:.6f}">{found.low:.3f}–{found.high:.3f}</td>' if found else "<td></td>")
        cells.append(f'<td data-key="{image.width * image.height}">{_described(image)}</td>')
        cells.append(f"<td>{button}</td>" if self.explain else "")
        return f"<td>{picture}</td>", "".join(cells)

    def _look(self, source: str, name: str) -> tuple[str, str]:
        """The thumbnail, and the button of the heat map if that is wanted; why there is none, if so."""
        try:
            pixels, _ = self.load(source)
            button = self._button(pixels, name) if self.explain else ""
        except ImageError as error:
            # It was scored a moment ago, so it has changed since.
            return f"<small>{escaped(str(error))}</small>", ""
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        size = f'width="{image.width}" height="{image.height}"'
        return f'<img src="{_data_uri(image, 75)}" {size} alt="Thumbnail of {name}" decoding="async">', button

    def _button(self, pixels: Tensor, name: str) -> str:
        assert self.explain is not None
        uri = _data_uri(self.explain(pixels).overlay(longest=HEATMAP), 80)
        return f'<button type="button" class="map" data-map="{uri}" aria-label="Heat map of {name}">Show</button>'


def escaped(text: str) -> str:
    """Text of strangers for any place of the page, without control characters, half surrogates and turned writing."""
    return html.escape(printable(text))


def _described(image: ImageInfo) -> str:
    quality = "" if image.jpeg_quality is None else f", quality {image.jpeg_quality}"
    return f"{image.width}×{image.height} {escaped(image.format)}{quality}"


def _data_uri(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
