"""Texts about how the face moves in a clip: FineCLIPER's high level, used in training only."""
