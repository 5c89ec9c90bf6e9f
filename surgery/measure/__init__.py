"""Makes tables by running: what layers take in a runtime, and what a cut of each does to the network."""
