"""Reading and writing checkpoints: ours, DFER-CLIP's, and files nobody vouches for."""
