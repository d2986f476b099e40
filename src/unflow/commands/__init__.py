"""The shell: the list of commands, and one file per command."""
