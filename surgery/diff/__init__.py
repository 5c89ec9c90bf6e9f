"""What changed between two networks: which layers, in what, by how much."""
