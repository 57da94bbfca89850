"""Reports: an HTML page, and tables for the terminal."""
