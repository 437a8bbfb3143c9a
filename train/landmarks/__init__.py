"""Landmarks of faces and pictures drawn from them: FineCLIPER's middle level, used in training only."""

MIDDLE = ("distil",)
"""How the middle level may be used."""
WEIGHT = 0.5
"""What its loss counts by (our choice)."""
