"""A folder of scans to segment: what is in it, what becomes of it, and the table beside the masks."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from patchcl.core.files import remove_left
from patchcl.data.discovery import (
    find_scans,
    link_series,
    no_scans_beside,
    passed_over,
    passed_over_by_series,
    without_links,
)
from patchcl.inference.case_summary import TABLE, CaseSummary, write_table
from patchcl.inference.output_files import check_out

Scans = Mapping[str, tuple[Path, ...]]
"""The files of each scan, one for each channel, by the name of its case."""


class PredictionSummary(NamedTuple):
    """What became of every scan."""

    done: tuple[str, ...]  # case names
    failed: tuple[tuple[str, str], ...]  # case name, or that of a file that is no scan, and what to do about it
    cases: tuple[CaseSummary, ...] = ()  # of all that are done
    notes: tuple[str, ...] = ()  # a line for what lies beside scans and is none


def segment_folder(
    source: Path,
    out: Path,
    series: str | None,
    segment: Callable[[Scans], PredictionSummary],
    links_in: Path | None = None,
) -> PredictionSummary:
    """Have `segment` work on the scans that are found in `source`; write the table, and name what is no scan.

    With `series`, links to the files of each lie in the folder `links_in` meanwhile.
    """
    with TemporaryDirectory(prefix=".patchcl-", dir=links_in) as links:
        scans, failed = (find_scans(source), []) if series is None else link_series(source, series, Path(links))
        check_out(out, source)
        summary = segment(scans)
        told = [(name, without_links(message, Path(links))) for name, message in summary.failed]
    over = passed_over(source, scans, out) if series is None else passed_over_by_series(source, out)
    if summary.cases:
        write_table(out / TABLE, summary.cases)
    remove_left(out)
    notes = no_scans_beside(scans) if series is None else []
    return summary._replace(failed=(*failed, *told, *over), notes=tuple(notes))
