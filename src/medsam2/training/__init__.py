"""Learning the network's weights."""
