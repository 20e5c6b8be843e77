"""A page for trying a detector: one picture in; verdict, heat map and what the file says of itself out. `aigidetect demo`.

    upload -> isolation (decoded in a process of its own) -> predict, explain; provenance reads the bytes

The same page runs here and as a Space of the Hub, see examples/gradio_app.py. Nothing is reported to anybody, and no other
host is asked for anything, unless a public link is wanted. Needs `pip install 'aigidetect[demo]'`.
"""

from __future__ import annotations

import html
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from .detector import Detector
from .errors import AigidetectError, ExplanationError, ImageError
from .isolation import Isolation
from .prediction import Prediction
from .provenance import CAVEAT, read
from .sources import IMAGE_SUFFIXES

_SECONDS = 60.0  # for one picture
_LONGEST = 1024  # pixels of a side of what is shown
_MAX_UPLOAD = "50mb"
_KEPT = 3600  # seconds that an upload lies on the disk, at most twice

# What each verdict means: a headline, and a sentence.
_WORDS = {
    "ai": ("Looks AI-generated", "That is a reason to look closer, not proof."),
    "real": ("Looks like a photograph", "That is no certificate: what the detector never saw may look real to it."),
    "unsure": ("The detector cannot tell", "Its score lies between the two limits, and a guess would help nobody."),
}
_LIMITS = """
- **It is not proof.** Somebody else's camera, filter or compression can look generated.
- **New generators, edits and screenshots** may look real. Partly generated pictures were not measured.
- **The probability** supposes that half of all pictures are generated. Where few are, most alarms are false ones.
- **The heat map** shows what moved the detector, no outline of what was generated: orange speaks for "AI-generated", blue
  against it, and dark places were not looked at.
- **What the file says** is easily removed or forged, and never touches the score.
- **Give the original file.** A screenshot or a copy from a messenger has lost much of what there is to see.
"""
_STYLE = """
.verdict { border-left: .5rem solid #5b6472; padding: .25rem 1rem; }
.verdict.ai { border-color: #c2410c; } .verdict.real { border-color: #1d4ed8; } .verdict.unsure { border-color: #a16207; }
.verdict h2 { margin: 0 0 .25rem; font-size: 1.5rem; } .verdict p { margin: .25rem 0; }
footer { display: none !important; }
"""


class Answer(NamedTuple):
    """What the page shows of one picture.

    Attributes:
        verdict: HTML: verdict and score in words, or why there is none.
        picture: The picture as it was scored, made smaller; None without one.
        heatmap: Where the score comes from, of the same size; None if the detector cannot say.
        provenance: HTML: what the file says of its origin.
    """

    verdict: str
    picture: Image.Image | None = None
    heatmap: Image.Image | None = None
    provenance: str = ""


class Judge:
    """Path of an uploaded file -> Answer. Files are decoded in a process that lives as long as this one.

    Args:
        detector: What scores.
        fpr: See `aigidetect.Detector.predict`.

    Raises:
        AigidetectError: The process for decoding does not start.
        ValueError: No threshold was measured at `fpr`.
    """

    def __init__(self, detector: Detector, fpr: float | None = None) -> None:
        detector.calibration.threshold(fpr)
        self.detector, self.fpr = detector, fpr
        self._isolation = Isolation(1, _SECONDS)
        self._isolation.__enter__()

    def close(self) -> None:
        """Ends the process."""
        self._isolation.__exit__()

    def __call__(self, path: str | None) -> Answer:
        """Never raises for what is wrong with the file: the answer says it.

        Args:
            path: The file; None once it was taken away again.
        """
        if path is None:
            return Answer("")
        try:
            pixels, _ = self._isolation.load(path)
            record, origin = self.detector.predict(pixels, fpr=self.fpr), _origin(path)
        except ImageError as error:
            return Answer(_block("failed", "No score", [str(error)]))
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        picture.thumbnail((_LONGEST, _LONGEST))
        try:
            heatmap = self.detector.explain(pixels).overlay(longest=_LONGEST)
        except ExplanationError:
            heatmap = None
        return Answer(_verdict(record), picture, heatmap, origin)


def launch(
    detector: Detector,
    *,
    fpr: float | None = None,
    examples: str | os.PathLike[str] | None = None,
    port: int | None = None,
    share: bool = False,
    block: bool = True,
) -> Any:
    """Serves the page.

    Args:
        detector: What scores.
        fpr: See `aigidetect.Detector.predict`.
        examples: Folder of pictures to try; None shows none.
        port: Of this machine; None is the first free one from 7860 on.
        share: Whether a public link is made, through the servers of Gradio, which then see the uploads.
        block: Whether this waits until the server ends.

    Returns:
        The gradio.Blocks; its `local_url` is the address.

    Raises:
        AigidetectError: The port is taken, or decoding cannot start.
        ModuleNotFoundError: Gradio is not installed.
        ValueError: No threshold was measured at `fpr`.
    """
    gradio = _import_gradio()
    judge = Judge(detector, fpr)
    page = _page(gradio, judge, examples)
    # Fonts of the system: those of the usual theme come from another host.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    options = {"theme": theme, "css": _STYLE, "footer_links": [], "max_file_size": _MAX_UPLOAD, "ssr_mode": False}
    try:
        page.launch(server_port=port, share=share, prevent_thread_lock=True, quiet=True, **options)
    except OSError as error:
        judge.close()
        raise AigidetectError(f"The page cannot be served: {error} Give another --port.") from error
    if block:
        print(f"aigidetect: {page.share_url or page.local_url}, Ctrl-C ends it", file=sys.stderr)
        try:
            page.block_thread()
        finally:
            judge.close()
    return page


def _page(gradio: Any, judge: Judge, examples: str | os.PathLike[str] | None) -> Any:
    with gradio.Blocks(title="aigidetect", analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as page:
        gradio.Markdown(f"# Photograph or AI-generated?\nOne picture, scored by `{judge.detector.name}`.")
        with gradio.Row():
            with gradio.Column(scale=2):
                upload = gradio.File(label="Picture: the original file", elem_id="upload", height=160)
                paths = _pictures(examples)
                if paths:
                    shown = gradio.Image(type="filepath", render=False)
                    tries = gradio.Dataset(
                        label="Or one of these", components=[shown], samples=[[path] for path in paths], type="index"
                    )
                gradio.Markdown(f"## What this can and cannot tell\n{_LIMITS}")
            with gradio.Column(scale=3):
                verdict = gradio.HTML(elem_id="verdict")
                with gradio.Row():
                    picture = gradio.Image(label="As scored", interactive=False, elem_id="picture", buttons=["fullscreen"])
                    heatmap = gradio.Image(
                        label="What moved the detector", interactive=False, elem_id="heatmap", buttons=["fullscreen"]
                    )
                origin = gradio.HTML(elem_id="provenance")
        outputs = [verdict, picture, heatmap, origin]
        upload.change(judge, upload, outputs, api_name="score")
        if paths:
            tries.click(lambda number: judge(paths[number]), tries, outputs, api_visibility="private")
    return page


def _pictures(folder: str | os.PathLike[str] | None) -> list[str]:
    if folder is None:
        return []
    return sorted(str(path) for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _verdict(record: Prediction) -> str:
    headline, meaning = _WORDS[record.verdict]
    score = f"Probability that it is AI-generated: {record.probability:.3f}. "
    score += f"From {record.threshold:.3f} on the verdict is “ai”"
    rate = ". How often real photographs are called so by mistake was never measured."
    if record.fpr is not None:
        rate = f"; about {100 * record.fpr:g} of 100 photographs, like those it was tested on, are called so by mistake."
    return _block(record.verdict, headline, [meaning, score + rate])


def _origin(path: str) -> str:
    found = read(path)
    said = [claim.statement for claim in found.claims] or ["Nothing of its origin."]
    items = "".join(f"<li>{html.escape(text)}</li>" for text in (*said, *found.notes))
    return f"<h3>What the file says of itself</h3><ul>{items}</ul><p>{html.escape(CAVEAT)}</p>"


def _block(kind: str, headline: str, sentences: list[str]) -> str:
    rest = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
    return f'<div class="verdict {kind}" role="status"><h2>{html.escape(headline)}</h2>{rest}</div>'


def _import_gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at its import, and it would report its use otherwise
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The demo needs Gradio: pip install 'aigidetect[demo]'. Where pip finds that the two need different versions of "
            "Pillow: pip install gradio, then pip install --upgrade pillow.",
            name="gradio",
        ) from error
    return gradio
