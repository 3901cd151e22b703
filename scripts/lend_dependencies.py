"""Link what a distribution declares to need from this environment into another one.

A clean environment for the wheel would spend minutes on installing torch again. This links the
closure of the declared dependencies instead, so that an undeclared one is still missed.

    python scripts/lend_dependencies.py penjing path/to/other/site-packages
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path


def closure(name: str) -> dict[str, Distribution]:
    """Installed distributions that `name` needs without extras, by normalised name."""
    found: dict[str, Distribution] = {}
    waiting = needs(distribution(name))
    while waiting:
        key = waiting.pop()
        try:
            found[key] = distribution(key)
        except PackageNotFoundError:
            continue  # wanted on other platforms only; pip says so if it is not
        waiting |= needs(found[key]) - found.keys()
    return found


def needs(package: Distribution) -> set[str]:
    """Normalised names in the requirements of `package` that do not depend on an extra."""
    required = [line for line in package.requires or () if "extra ==" not in line]
    names = (re.match(r"[\w.-]+", line) for line in required)
    return {re.sub(r"[-_.]+", "-", name.group()).lower() for name in names if name}


def link(package: Distribution, target: Path) -> None:
    """Link the top-level files and folders of `package` into `target`."""
    tops = {file.parts[0] for file in package.files or () if file.parts[0] != ".."}
    for top in tops - {"__pycache__"}:
        place = target / top
        if not place.exists():
            place.symlink_to(Path(str(package.locate_file(top))).resolve())


if __name__ == "__main__":
    for dependency in closure(sys.argv[1]).values():
        link(dependency, Path(sys.argv[2]))
