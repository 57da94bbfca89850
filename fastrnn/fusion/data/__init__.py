"""Data: tables, files and their conversion to batches."""
