"""The state of a stream between its faces and its predictions: tracks, windows, turns, smoothing, classes."""
