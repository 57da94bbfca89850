"""Real tables, made from packages of Debian: download, train, and compare with baselines."""
