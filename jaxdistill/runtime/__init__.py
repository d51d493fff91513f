"""Processes: starting them, their agreement, and the settings of each."""
