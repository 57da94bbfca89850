"""Synthetic tasks: each requires exactly the ability that it is named after.

Each task writes real files and a manifest, which are read like those of any user. The scores show
which information a model can combine, and say nothing about accuracy on real data.
"""
