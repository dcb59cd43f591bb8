"""The command line: what a person types and sees, and how a process begins and ends."""
