"""Profiling: measurements, reports, comparisons, the HTML page, energy."""
