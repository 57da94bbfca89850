"""The backends: what computes a recurrence, and how `auto` chooses among them."""
