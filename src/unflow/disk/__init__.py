"""Models on disk: bundles and their cards, checkpoints of other packages, diffusers, the Hugging Face Hub."""
