"""What a run leaves behind or shows: tables, videos, plots, a window, the summary."""
