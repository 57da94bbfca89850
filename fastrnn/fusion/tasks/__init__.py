"""Constructed probes: tasks whose answer needs exactly what they are named for.

Each writes real files and a manifest, which are then read as anyone's are. What a model reaches on
them says which knowledge it can combine, and nothing about accuracy on real data.
"""
