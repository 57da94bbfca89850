"""The backends that compute a recurrence, and how `auto` selects one."""
