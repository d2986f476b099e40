"""``unlearn`` carries out a request; ``plan`` says before training what it would cost."""
