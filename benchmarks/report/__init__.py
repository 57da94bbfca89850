"""Records of benchmarks: files, tables for the terminal, and the pages and figures of the docs."""
