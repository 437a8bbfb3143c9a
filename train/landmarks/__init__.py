"""Landmarks of faces and pictures drawn from them: FineCLIPER's middle level, used in training only."""

MIDDLE = ("distil",)
"""The ways to use the middle level."""
WEIGHT = 0.5
"""Default weight of its loss (our choice)."""
