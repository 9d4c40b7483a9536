"""Metrics, protocols, the demo."""
