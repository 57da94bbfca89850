"""Plots of metrics and attributions."""
