"""The recurrence that carries a mask from slice to slice."""
