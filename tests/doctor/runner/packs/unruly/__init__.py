"""Probes that misbehave, each in its own way."""
