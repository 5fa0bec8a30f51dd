"""Reads and checks the calibrations in the encoders' manifests.

Owns the format of a manifest's `calibration` and the range of each number in it. Must not know
how the numbers are used. A calibration of another encoder, or with an implausible number, is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from whodrives.errors import ModelError
from whodrives.models.encoder import (
    FIRST,
    SECOND,
    SECOND_DIMENSION,
    fingerprint_of,
    fused_fingerprint,
)
from whodrives.models.manifests import Manifest, read_manifest
from whodrives.voice.scoring import FIRST_DIMENSION
from whodrives.voice.types import Calibration, CalibrationPoint, OperatingPoint


def load_calibration(models_dir: Path, encoders: int = 2, *, pinned: bool = True) -> Calibration:
    """Read the calibration of the encoder, or of the two together with that of the first one.

    Args:
        models_dir: where the models are.
        encoders: 1 or 2, as in `config.schema.ModelFiles`.
        pinned: as for `read_manifest`.

    Raises:
        ModelError: there is no calibration, it is malformed, or it is another encoder's.
    """
    first = read_manifest(models_dir, FIRST, pinned=pinned)
    single = _of_manifest(first, FIRST_DIMENSION)
    _check_encoder(first, single, fingerprint_of(first))
    if encoders == 1:
        return single
    second = read_manifest(models_dir, SECOND, pinned=pinned)
    fused = _of_manifest(second, FIRST_DIMENSION + SECOND_DIMENSION)
    _check_encoder(second, fused, fused_fingerprint(first, second))
    return replace(fused, single=single)


def _of_manifest(manifest: Manifest, dimension: int) -> Calibration:
    facts = manifest.facts.get("calibration")
    if not facts:
        raise ModelError(f"{manifest.path} has no calibration; restore the file")
    try:
        return _calibration(facts, dimension)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"{manifest.path}: the calibration is malformed: {error!r}; restore the file"
        ) from error


def _check_encoder(manifest: Manifest, calibration: Calibration, fingerprint: str) -> None:
    if calibration.encoder != fingerprint:
        raise ModelError(
            f"{manifest.path}: the calibration was measured on encoder {calibration.encoder}, not "
            f"on {fingerprint}; restore the file, or measure again with tools/calibrate"
        )


def _calibration(facts: Mapping[str, Any], dimension: int) -> Calibration:
    points = [
        CalibrationPoint(
            speech_s=float(point["speech_s"]),
            slope=float(point["slope"]),
            offset=float(point["offset"]),
            other_cosine=float(point["other_cosine"]),
            speaker_change_cosine=float(point["same_cosine"]),
            accept_llr={
                key: tuple(float(value) for value in values)
                for key, values in point["accept_llr"].items()
            },
        )
        for point in facts["points"]
    ]
    mean = np.array(facts["mean"], np.float64)
    if mean.shape != (dimension,):
        raise ValueError(f"mean has the shape {mean.shape}, not ({dimension},)")
    if not np.all(np.abs(mean) <= 1.0):
        raise ValueError("mean has a number outside -1 to 1")
    calibration = Calibration(
        encoder=str(facts["encoder"]),
        mean=mean.astype(np.float32),
        points=tuple(sorted(points, key=lambda point: point.speech_s)),
        ambiguity_llr=float(facts["ambiguity_llr"]),
        households=tuple(int(size) for size in facts["households"]),
        cohort_max_cosine=float(facts["alike_cosine"]),
    )
    _check_ranges(calibration)
    return calibration


_BOUNDS = {
    "speech_s": (0.1, 60.0),
    "slope": (1.0, 200.0),
    "offset": (-100.0, 0.0),
    "other_cosine": (-0.2, 0.5),
    "same_cosine": (-0.5, 0.9),
    "accept_llr": (0.5, 50.0),
    "ambiguity_llr": (0.5, 50.0),
    "households": (1, 32),
    "alike_cosine": (0.2, 0.95),
    "length of mean": (0.0, 1.0),
}
"""Plausible ranges; a number outside could accept unenrolled speakers.

A speaker who is as similar as the cohort has the llr `offset`, which is negative. An accepted
speaker is more likely the driver than not, so `accept_llr` is above 0. The mean of unit vectors is
at most of unit length.
"""


def _check_ranges(calibration: Calibration) -> None:
    """Raise ValueError if a number is outside its range, or the thresholds are inconsistent."""
    found: list[tuple[str, float]] = [
        ("ambiguity_llr", calibration.ambiguity_llr),
        ("alike_cosine", calibration.cohort_max_cosine),
        ("length of mean", float(np.linalg.norm(calibration.mean))),
        *(("households", size) for size in calibration.households),
    ]
    for point in calibration.points:
        names = ("speech_s", "slope", "offset", "other_cosine")
        found += [(name, getattr(point, name)) for name in names]
        found.append(("same_cosine", point.speaker_change_cosine))
        found += [("accept_llr", llr) for row in point.accept_llr.values() for llr in row]
        if set(point.accept_llr) != set(get_args(OperatingPoint)):
            raise ValueError(f"accept_llr needs {' and '.join(get_args(OperatingPoint))}")
        if any(
            strict < loose
            for strict, loose in zip(
                point.accept_llr["1/1000"], point.accept_llr["1/100"], strict=True
            )
        ):
            raise ValueError("accept_llr is lower at 1/1000 than at 1/100")
    for name, value in found:
        low, high = _BOUNDS[name]
        # Negated, so that NaN is refused.
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}, not {low} to {high}")
