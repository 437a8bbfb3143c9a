"""INT8 with proof: faces to calibrate on, ranges of activations, Q/DQ graphs, and what each layer costs."""
