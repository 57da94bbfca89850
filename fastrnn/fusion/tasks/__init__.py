"""Problem types: how labels are encoded, predicted and scored."""
