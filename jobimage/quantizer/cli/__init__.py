"""The command line: options, output, and how a process starts and ends."""
