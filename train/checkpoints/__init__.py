"""Reading and writing checkpoints: ours, DFER-CLIP's, and untrusted files."""
