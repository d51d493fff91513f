"""Starting a run as several processes: on this machine, and as recipes for clusters."""
