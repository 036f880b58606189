"""`remora keys`: the keys of an endpoint (`remora serve --keys FILE`).

remora keys add alice --file keys.yaml --requests-per-minute 60 --concurrent 4
"""

from __future__ import annotations

import json

from remora.commands.endpoint_options import KeysOptions
from remora.commands.saying import say
from remora.errors import SpecError
from remora.serving.keys import add_key, read_keys, remove_key


def keys(options: KeysOptions) -> None:
    """Add a key and print it, remove one, or list them."""
    file, name = options.file.expanduser(), options.name
    if options.what == "ls":
        if options.json:
            limits_of = {"requests_per_minute", "concurrent"}
            found = {holder: key.model_dump(include=limits_of) for holder, key in read_keys(file).items()}
            say(json.dumps(found, indent=1))
            return
        for holder, key in read_keys(file).items():
            limits = (("requests a minute", key.requests_per_minute), ("at a time", key.concurrent))
            say(f"{holder}: {', '.join(f'{most:,} {what}' for what, most in limits if most) or 'no limits'}")
        return
    if name is None:
        raise SpecError(f"whose key? next: remora keys {options.what} NAME --file {file}")
    if options.what == "remove":
        remove_key(file, name)
        say(f"removed the key of {name}; running endpoints refuse it within a second")
        return
    made = add_key(file, name, options.requests_per_minute, options.concurrent)
    say(f"key of {name}, printed this once (the file has its hash only):")
    say(made)
