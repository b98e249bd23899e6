"""The protocols of other viewers: nnInteractive 2.x, SlicerNNInteractive 0.x and ITK-SNAP."""
