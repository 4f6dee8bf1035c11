"""The table that stands first in docs/verification.md: what shows each thing that is promised."""

from __future__ import annotations

from tabulate import tabulate

from stages.verify.document import Section, figures_of

# What is promised; the tests that show it (`FILE::TEST` or `FILE`, of tests/), and the part of
# `make verify` that shows it at length.
_GATE = (
    (
        "any difference counts on the baseline's machine and packages",
        "test_regression.py::test_any_difference_counts_on_the_same_machine",
        "",
    ),
    (
        "elsewhere means over seeds, with a tolerance from their standard error",
        "test_regression.py::test_worse_means_count_elsewhere "
        "test_regression.py::test_tolerance_is_the_stated_formula "
        "test_regression.py::test_as_good_runs_of_another_machine_are_silent",
        "",
    ),
    (
        "bytes outside the coded integers count exactly, everywhere",
        "test_gate.py::test_a_mistake_in_the_code_is_caught",
        "",
    ),
    (
        "a missing run is worse anywhere; a new one counts on the baseline's machine",
        "test_regression.py::test_a_lost_run_is_worse_and_an_added_one_different "
        "test_regression.py::test_equal_runs_in_any_order_are_silent",
        "",
    ),
    (
        "one table, worst first; JUnit XML; exit code 1",
        "test_regression.py::test_the_worst_comes_first "
        "test_regression.py::test_outcome_shows_the_worst_rows_and_ends_with_one_line "
        "test_regression.py::test_junit_holds_the_failures "
        "test_baseline.py::test_check_fails_on_a_worse_run",
        "",
    ),
    (
        "`make baseline` refuses changed code or settings",
        "test_baseline.py::test_changed_code_or_settings_are_refused",
        "",
    ),
    (
        "mistakes put into the code are caught",
        "test_gate.py::test_a_mistake_in_the_code_is_caught",
        "regressions",
    ),
    (
        "unchanged runs in another order, by another number of processes, are silent",
        "test_gate.py::test_unchanged_runs_are_silent",
        "silence",
    ),
    (
        "`dvc metrics diff` tells the same",
        "test_pipeline.py::test_dvc_tells_of_a_regression_what_the_gate_does",
        "",
    ),
)
_FAULTS = (
    (
        "killed stages end as undisturbed ones, no finished epoch is repeated, nothing "
        "half-written is taken for whole",
        "test_faults.py::test_a_killed_stage_goes_on_after_its_last_epoch "
        "test_faults.py::test_a_training_that_was_killed_at_its_end_repeats_no_epoch "
        "test_faults.py::test_an_interrupted_training_drops_what_an_undisturbed_one_does "
        "test_run_resumed.py::test_an_interrupted_run_ends_like_an_uninterrupted_one",
        "kills",
    ),
    ("a full disk", "test_faults.py::test_a_full_disk", ""),
    ("a read-only results folder", "test_faults.py::test_a_read_only_results_folder", ""),
    (
        "a corrupt entry of DVC's cache",
        "test_pipeline.py::test_a_damaged_cache_entry_is_made_again",
        "",
    ),
    (
        "corrupt feature files, checkpoints, coded files and saved progress",
        "test_faults.py::test_a_damaged_input_is_named "
        "test_faults.py::test_damaged_progress_is_told_and_damaged_results_are_made_again",
        "",
    ),
    (
        "a checkpoint is data, never code",
        "test_faults.py::test_commands_refuse_code test_faults.py::test_stages_refuse_code "
        "test_faults.py::test_a_start_that_holds_code_is_refused "
        "test_checkpoint.py::test_a_checkpoint_cannot_run_code",
        "",
    ),
    (
        "forged bitstreams: an error or the right answer, within a second and ten times the memory "
        "announced",
        "test_fuzzing.py::test_forged_files_are_refused_or_read_as_what_they_say "
        "test_bitstream.py::test_forged_elements_cost_no_more_than_a_slice",
        "fuzzing",
    ),
    (
        "archives cannot write outside their folder: they are never unpacked",
        "test_archives.py::test_names_that_lead_elsewhere_do_no_harm test_archives.py::test_links",
        "",
    ),
    (
        "two suites at once in one clone",
        "test_pipeline.py::test_two_suites_at_once "
        "test_faults.py::test_suites_that_need_the_same_training_at_once_share_it",
        "concurrency",
    ),
)
_OWN_MODEL = (
    ("worked examples", "test_examples.py", ""),
    ("tied weights, frozen parameters, half precision and the like", "test_own_models.py", ""),
    (
        "`quantizer.summary()` lists every parameter",
        "test_own_models.py::test_every_parameter_has_its_line",
        "",
    ),
    ("export to state_dict, safetensors and ONNX", "test_export.py test_cli.py", ""),
    ("live tracking", "test_tracking.py", ""),
)
_LOOKED_AT = (
    ("`report.html` in a browser", "test_browser.py test_page.py", ""),
    ("the terminal: progress, help, completion, exit codes", "test_terminal.py", ""),
    ("docs/ as a site, links and samples tested", "test_docs.py", ""),
    ("the demo notebook", "test_examples.py::test_the_notebook_runs", ""),
)
_CACHE = (
    (
        "an edit makes stale what it can change, and nothing else",
        "test_fingerprints.py::test_an_edit_makes_stale_what_it_can_change "
        "test_pipeline.py::test_edits_make_stale_what_they_can_change_and_nothing_else",
        "",
    ),
    (
        "what a stage and a training import is what their fingerprints count",
        "test_closure.py::test_each_stage_imports_what_its_fingerprint_counts "
        "test_closure.py::test_programs_import_what_their_closures_say",
        "",
    ),
    (
        "committed results of a published suite are those of the committed code",
        "test_fingerprints.py::test_the_check_fails_where_a_committed_lock_is_not_of_the_code",
        "",
    ),
    (
        "finished trainings are left out before a process starts",
        "test_pipeline.py::test_finished_trainings_start_no_process",
        "",
    ),
)
ITEMS = {
    "Regression gate": _GATE,
    "Cache": _CACHE,
    "Faults": _FAULTS,
    "A model of one's own": _OWN_MODEL,
    "What people look at": _LOOKED_AT,
    "The pipeline": (
        (
            "the same bytes from every run",
            "test_pipeline.py::test_every_stage_ran_once",
            "determinism",
        ),
    ),
}


def overview(document: str) -> Section:
    """The table, with the figures that the document holds."""
    rows = [
        (area if number == 0 else "", promise, _shown(tests, part), _found(document, part))
        for area, items in ITEMS.items()
        for number, (promise, tests, part) in enumerate(items)
    ]
    table = tabulate(rows, ("", "what is promised", "what shows it", "figures"), "github")
    text = (
        "Tests are those of `make test`; a part of `make verify` runs alone with "
        f"`make verify PART=NAME`, and what it found stands below.\n\n{table}"
    )
    return Section("overview", "What shows what", text, None)


def _shown(tests: str, part: str) -> str:
    names = [f"`tests/{name}`" for name in tests.split()]
    return ", ".join([*names, f"`make verify PART={part}`"] if part else names)


def _found(document: str, part: str) -> str:
    if not part:
        return ""
    found = figures_of(document, part)
    return "; ".join(figures or title for title, figures in found) or "not run yet"
