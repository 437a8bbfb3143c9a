"""The live web page: pictures, expressions and figures of a running recognition, in a browser."""

from .page import WebPage

__all__ = ["WebPage"]
