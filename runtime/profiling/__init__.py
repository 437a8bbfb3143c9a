"""Where the time goes: measuring, reports, comparisons, the page, energy."""
