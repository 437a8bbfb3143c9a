"""Face quality, from the detector's score and the face's size, sharpness and pose."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from .detection import Face

_SCORES = 0.4, 0.8  # detector scores: the lowest reported here, and that of good frontal faces
_SIZES = 24.0, 80.0  # side of the face in pixels: below, expressions are guessed; above, nothing is gained
_SHARPNESSES = 0.003, 0.012  # of enlarged photographs with faces of 20 and of 48 pixels
_SIDE = 80  # pixels, of the crops for which that holds
_POSES = 0.0, 0.25  # distance of the nose from the nearer eye, along the line between the eyes; 0.5 is frontal


def sharpness(crop: NDArray[np.uint8]) -> float:
    """Return the variance of an aligned RGB crop's Laplacian over the crop's own variance, independent of the light.

    Larger crops are first averaged down to between 80 and 160 pixels: a face is no less sharp for being enlarged.
    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000 (variance of the Laplacian).
    """
    green = cv2.extractChannel(crop, 1)  # most of the luma, without a conversion
    if (factor := len(crop) // _SIDE) > 1:
        green = cv2.resize(green, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    edges, light = (float(cv2.meanStdDev(part)[1][0, 0]) for part in (cv2.Laplacian(green, cv2.CV_16S), green))
    return edges**2 / max(light**2, 1.0)


def face_quality(face: Face, sharp: float) -> float:
    """Return 0 (unusable) to 1 (as good as training photographs): the worst of score, size, sharpness and pose.

    sharp: `sharpness` of its aligned crop.
    """
    logarithm = math.log(max(sharp, 1e-9) / _SHARPNESSES[0]) / math.log(_SHARPNESSES[1] / _SHARPNESSES[0])
    parts = (
        _share(face.score, *_SCORES),
        _share(face.size, *_SIZES),
        logarithm,
        _share(min(face.nose, 1 - face.nose), *_POSES),
    )
    return min(1.0, max(0.0, min(parts)))


def _share(value: float, none: float, full: float) -> float:
    return (value - none) / (full - none)
