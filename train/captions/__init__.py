"""Captions that describe how the face moves in a clip: FineCLIPER's high level, used in training only."""

WEIGHT = 0.5
"""Default weight of the caption loss (our choice; the paper's public pages give no number)."""
