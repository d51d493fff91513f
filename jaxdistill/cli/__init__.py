"""The command line: parse, load the config, call a stage or a tool; nothing else."""
