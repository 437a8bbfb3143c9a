"""The live web page, with images, expressions and figures of a run in the browser; and the metrics endpoint."""

from .messages import ServedModel
from .page import WebPage

__all__ = ["ServedModel", "WebPage"]
