"""Distillation: a small tower learns a trained model's frame features from unlabelled faces."""
