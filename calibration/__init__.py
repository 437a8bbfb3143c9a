"""INT8 calibration: faces, ranges of activations, Q/DQ graphs, and the sensitivity of each layer."""
