"""One trial: the training loop and its step. Torch, and nothing of Ray."""
