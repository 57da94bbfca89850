"""Networks: encoders, fusions, recurrent layers. They know no files."""
