"""Networks: CLIP, its small towers, tokens, synchronizer, temporal net, prompts, adapters."""
