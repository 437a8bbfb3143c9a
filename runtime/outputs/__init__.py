"""The outputs of a run: tables, videos, plots, a window, the summary."""
