"""A red team against a running endpoint: `remora attack URL`. Bounded in number and time, from loopback by default.

    pictures.py, bodies.py, connections.py, addresses.py    what is sent, by attack; tests/serving sends it, too
    attacks.py, storms.py                                   the attacks, each with what it imitates
    wire.py, judge.py, listener.py, memory.py               how it is sent, what counts as ok, what else is watched
    run.py                                                  one row an attack

Known attacks on servers of this kind are the source; where one has a number (CVE), its docstring says so. No Ray here.
"""
