"""The command line: the list of commands, and one file for each command."""
