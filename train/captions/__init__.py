"""Texts about how the face moves in a clip: FineCLIPER's high level, used in training only."""

WEIGHT = 0.5
"""What the loss of captions counts by (our choice; the paper's public pages give no number)."""
