"""The state of a stream between its faces and its predictions: tracks, windows, scheduling, smoothing, classes."""
