"""Manifest entry -> network, preprocessing and calibration: the parts of a Detector."""

from __future__ import annotations

import torch
from torch import Tensor

from .calibration import Calibration
from .errors import ManifestError, WeightsMismatch
from .layers.low_rank import merge_low_rank
from .layers.quantised import dequantise
from .manifest import ManifestEntry
from .models import load_architecture
from .preprocess import Preprocess, from_dict
from .state import Unfilled, load_into


def build_network(entry: ManifestEntry) -> torch.nn.Module:
    """The entry's network with random weights.

    Raises:
        ManifestError: The entry names an unknown architecture or unknown options.
    """
    try:
        network: torch.nn.Module = load_architecture(entry.architecture).build(**entry.config)
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"Detector {entry.full_name!r} cannot be built from its manifest entry: {error}") from error
    return network


def filled_network(entry: ManifestEntry, state: dict[str, Tensor], origin: str) -> torch.nn.Module:
    """The entry's network with its weights.

    Args:
        entry: The detector.
        state: Tensors as stored.
        origin: Where they come from, for the message.

    Raises:
        ManifestError: See `build_network`.
        WeightsMismatch: The tensors do not fit the network.
    """
    with Unfilled():
        network = build_network(entry)
    try:
        load_into(network, merge_low_rank(dequantise(state)), origin=origin)
    except ValueError as error:
        raise WeightsMismatch(f"The weights of {origin} are not whole: {error}") from error
    return network


def entry_preprocess(entry: ManifestEntry) -> Preprocess:
    """The entry's preprocessing.

    Raises:
        ManifestError: Unknown kind or option.
    """
    try:
        return from_dict(entry.preprocess)
    except (TypeError, ValueError) as error:
        raise ManifestError(f"Detector {entry.full_name!r} has a broken preprocessing: {error}") from error


def entry_calibration(entry: ManifestEntry) -> Calibration:
    """The entry's calibration; the uncalibrated default if it has none.

    Raises:
        ManifestError: Unknown field, or a value out of its range.
    """
    try:
        return Calibration.from_dict(entry.calibration) if entry.calibration else Calibration()
    except (TypeError, ValueError) as error:
        raise ManifestError(f"Detector {entry.full_name!r} has a broken calibration: {error}") from error
