"""Runs on disk: their folders, checkpoints and metrics."""

from nas.runs.folders import (
    RUNS,
    RunInfo,
    begin,
    begun,
    check_name,
    check_new,
    command_line,
    command_of,
    differences,
    find_run,
    load_run_data,
    load_run_info,
    newest,
    reopen,
    run_folder,
    save_run_info,
)

__all__ = [
    "RUNS",
    "RunInfo",
    "begin",
    "begun",
    "check_name",
    "check_new",
    "command_line",
    "command_of",
    "differences",
    "find_run",
    "load_run_data",
    "load_run_info",
    "newest",
    "reopen",
    "run_folder",
    "save_run_info",
]
