"""Training: the interface of methods, the training loop, and the trainings of original models."""
