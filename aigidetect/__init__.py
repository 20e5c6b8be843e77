"""aigidetect tells AI-generated images from photographs.

>>> import aigidetect
>>> detector = aigidetect.load_detector("npr-ms-ca")  # doctest: +SKIP
>>> detector.predict("photo.jpg").verdict  # doctest: +SKIP
'unsure'
"""

from . import provenance
from .calibration import Calibration, Threshold
from .detector import Detector
from .errors import AigidetectError, ImageError, ManifestError, UnknownDetectorError, WeightsError
from .explain import Explanation
from .prediction import Failure, ImageInfo, Prediction, Stability, Uncertainty
from .preprocess import SquashCrop, Tiles, Whole
from .registry import list_detectors, load_detector
from .uncertainty import Draws

__version__ = "0.1.0"

__all__ = [
    "AigidetectError",
    "Calibration",
    "Detector",
    "Draws",
    "Explanation",
    "Failure",
    "ImageError",
    "ImageInfo",
    "ManifestError",
    "Prediction",
    "SquashCrop",
    "Stability",
    "Threshold",
    "Tiles",
    "Uncertainty",
    "UnknownDetectorError",
    "WeightsError",
    "Whole",
    "list_detectors",
    "load_detector",
    "provenance",
]
