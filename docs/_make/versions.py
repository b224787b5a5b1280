"""Join builds of several versions to one site: ``python docs/_make/versions.py FOLDER https://host/site/``.

The folder has a folder for each version, such as ``0.2`` and ``dev``. This writes the list for the switch of the theme,
which the pages of all versions read, a front page that leads to the newest version, and a copy of its ``llms.txt``.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

FRONT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>anylocal</title>
<link rel="canonical" href="{url}">
<meta http-equiv="refresh" content="0; url={newest}/">
</head>
<body><a href="{newest}/">anylocal {newest}</a></body>
</html>
"""


def versions(site: Path) -> list[str]:
    """Return the versions of a site, the newest release first and the development version last."""
    found = [path.parent.name for path in site.glob("*/index.html")]
    releases = [name for name in found if name.replace(".", "").isdigit()]
    newest_first = sorted(releases, key=lambda name: [*map(int, name.split("."))], reverse=True)
    return [*newest_first, *sorted(set(found) - set(releases))]


def switcher(names: list[str], url: str) -> list[dict[str, object]]:
    """Return what the switch of the theme reads; it warns readers of a version that is not the preferred one."""
    entries: list[dict[str, object]] = [{"version": name, "url": f"{url}{name}/"} for name in names]
    entries[0]["preferred"] = True
    entries[0]["name"] = names[0] if names == ["dev"] else f"{names[0]} (stable)"
    return entries


def main(folder: str, url: str) -> int:
    """Write the files, and return the exit status."""
    site, url = Path(folder), f"{url.rstrip('/')}/"
    names = versions(site)
    if not names:
        print(f"{site} has no folder with an index.html")
        return 1
    (site / "switcher.json").write_text(json.dumps(switcher(names, url), indent=2) + "\n", "utf-8")
    (site / "index.html").write_text(FRONT.format(newest=names[0], url=f"{url}{names[0]}/"), "utf-8")
    # Where it is looked for; its links have the whole address.
    shutil.copy(site / names[0] / "llms.txt", site)
    # Folders that start with an underscore are served, too.
    (site / ".nojekyll").touch()
    print(f"{url} has {', '.join(names)}, and leads to {names[0]}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
