"""Thin adapters to Ray Train, Tune, Data and tasks. Only this room and serving import Ray."""
