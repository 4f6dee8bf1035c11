"""Shows the plots of a suite with DVC, on a page that needs no network.

DVC's own page loads the Vega libraries from the internet. A template of the page with these
libraries inlined is written to .dvc/plots.html and entered in .dvc/config.local, where a plain
`dvc plots show` or `dvc plots diff` finds it from then on. Neither file is committed; without them
DVC uses its own page.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import vl_convert

from ecqx.files import write_text
from stages import suites
from stages.command import command, run_command_line, suite_argument

TEMPLATE = "plots.html"
# The version that DVC's plots are written for.
_VEGA_LITE = "5.21"
# What the plots call.
_GLOBAL = "window.vegaEmbed = vegaEmbed;"
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>DVC plots</title>
<script>%s</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


@command
@suite_argument
@click.option("--template-only", is_flag=True, help="Write the template and show nothing.")
def main(suite: str, template_only: bool) -> int:
    """Write the template, then show the plots of the suite."""
    write_template(Path())
    if template_only:
        return 0
    # The colons select the plots of this file; without them it would be plotted itself.
    return _dvc(Path(), "plots", "show", f"{suites.pipeline_path(suite).as_posix()}::")


def write_template(root: Path) -> None:
    """Write the template of the page and enter it in DVC's local settings."""
    libraries = vl_convert.javascript_bundle(_GLOBAL, vl_version=_VEGA_LITE)
    write_text(root / ".dvc" / TEMPLATE, _PAGE % libraries)
    # A path relative to .dvc/. In the shared settings, a missing file would be an error.
    _dvc(root, "config", "--local", "plots.html_template", TEMPLATE)


def _dvc(root: Path, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root).returncode


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
