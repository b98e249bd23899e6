"""The small network that this repository trains and ships: it sees where the object was."""
