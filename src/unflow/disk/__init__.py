"""Models on disk: bundles and their cards, third-party checkpoints, diffusers, the Hugging Face Hub."""
