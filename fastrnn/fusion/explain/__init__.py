"""Explanation: attributions, ablations and interventions."""
