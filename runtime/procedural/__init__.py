"""A procedural human face, drawn with OpenCV and moved by action units.

All geometry is in *face units*: the face height (hairline to chin) is 1, the origin is its centre, x points right in
the image and y down. The pen lifts points onto an ellipsoid, rotates them by the pose and scales them to pixels. Soft
light is computed on a coarse grid and enlarged, so only crisp features are drawn at full size.
"""

from .background import draw_background
from .face import REACH, draw_face, trace_face
from .identity import BACKGROUNDS, HAIR_STYLES, Identity
from .pen import Colour, Image, Points
from .units import ActionUnits, Pose

__all__ = [
    "BACKGROUNDS",
    "HAIR_STYLES",
    "REACH",
    "ActionUnits",
    "Colour",
    "Identity",
    "Image",
    "Points",
    "Pose",
    "draw_background",
    "draw_face",
    "trace_face",
]
