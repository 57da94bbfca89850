"""Records of benchmarks: files, tables in the terminal, and the pages and figures of the docs."""
