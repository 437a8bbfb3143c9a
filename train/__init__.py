"""PyTorch models of dynamic facial expression recognition, and their training and evaluation."""
