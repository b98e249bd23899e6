"""The network's heavy parts rearranged for speed: the same numbers with fewer and faster operations.

`model/` stays as the papers have it; what is here takes its weights and is checked against it.
"""
