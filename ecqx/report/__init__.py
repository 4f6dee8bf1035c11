"""From measured runs to tables, figures, claims and one page.

Knows nothing of the pipeline: `ecqx.report.build.build` is given what was measured and a folder to
write to.
"""
