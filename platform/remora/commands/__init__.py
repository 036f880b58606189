"""The verbs of the command line: one function per verb, grouped in modules by theme."""
