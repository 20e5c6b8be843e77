"""Every exception that aigidetect raises on purpose.

AigidetectError
├── UnknownDetectorError (KeyError)      no detector of that name
├── ManifestError (ValueError)           weights_manifest.json is not what it should be
├── WeightsError (OSError)               a checkpoint cannot be used
│   ├── CheckpointRefused                a pickle asks for more than tensors
│   ├── WeightsMismatch                  its bytes, keys or shapes are not the published ones
│   └── WeightsNotAvailable              it is not here and cannot be fetched
├── ImageError (ValueError)              an input cannot become pixels
│   ├── ImageTooLarge                    over the byte or pixel limit
│   ├── ImageTruncated                   the file ends early or its data are damaged
│   ├── UnsupportedImage                 not a picture, or not in a supported format
│   ├── DecoderCrashed                   the process that decoded it died
│   └── DecoderTimeout                   decoding it took longer than allowed
├── ExplanationError (NotImplementedError)   a detector cannot say where its scores come from
├── ExportError (RuntimeError)           a detector cannot be written in another format, or computes other numbers there
├── OutputError (OSError)                records cannot be written
└── ResumeError (ValueError)             a file of records does not belong to this run
"""


class AigidetectError(Exception):
    """Base of all errors of this package."""


class UnknownDetectorError(AigidetectError, KeyError):
    """No detector of that name; the message lists the names that exist."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which would quote a whole sentence.
        return str(self.args[0]) if self.args else ""


class ManifestError(AigidetectError, ValueError):
    """The manifest breaks its schema; the message names the entry and the field."""


class WeightsError(AigidetectError, OSError):
    """A checkpoint cannot be used."""


class CheckpointRefused(WeightsError):
    """A pickled checkpoint asks for something else than tensors, or for more memory or time than its size explains."""


class WeightsMismatch(WeightsError):
    """The checkpoint's sha256, keys, shapes or golden output differ from the published ones."""


class WeightsNotAvailable(WeightsError):
    """The checkpoint is not on this machine and could not be, or may not be, fetched."""


class ImageError(AigidetectError, ValueError):
    """An input cannot be turned into pixels."""


class ImageTooLarge(ImageError):
    """The input exceeds the byte limit or the pixel limit."""


class ImageTruncated(ImageError):
    """The file ends early or its data are damaged; no score is given for a part of a picture."""


class UnsupportedImage(ImageError):
    """The input is not a picture, or not in a supported format."""


class DecoderCrashed(ImageError):
    """The process that decoded the input died."""


class DecoderTimeout(ImageError):
    """Decoding the input took longer than allowed."""


class ExplanationError(AigidetectError, NotImplementedError):
    """The network, or the preprocessing, cannot say which places of a picture a score comes from."""


class ExportError(AigidetectError, RuntimeError):
    """A detector cannot be written in another format, or the file computes other numbers."""


class OutputError(AigidetectError, OSError):
    """Records cannot be written."""


class ResumeError(AigidetectError, ValueError):
    """A file of records cannot be continued: it was made with other weights, settings or inputs, or by something else."""
