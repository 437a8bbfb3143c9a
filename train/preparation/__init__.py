"""Preparation of training data: face crops from videos and photographs, and detection of copies."""
