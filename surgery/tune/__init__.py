"""Training after the cut: the networks, targets and engines of `surgery tune`."""
