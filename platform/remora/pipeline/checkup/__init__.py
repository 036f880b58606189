"""Checks of a machine for `remora doctor`: each is a function that says what it found, and what to do if it is bad."""
