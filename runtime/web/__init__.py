"""The live web page: pictures, expressions and figures of a running recognition, in a browser; metrics beside it."""

from .messages import ServedModel
from .page import WebPage

__all__ = ["ServedModel", "WebPage"]
