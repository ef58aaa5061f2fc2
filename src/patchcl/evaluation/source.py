"""What `evaluate` may be asked to score; said apart, so that a mistake is told before torch is loaded."""

from os import PathLike

from patchcl.core.errors import UserError

Source = str | PathLike[str] | None


def require_one_source(run: Source, predictions: Source, masks: Source, several: bool) -> None:
    """Whether either a run or two folders of masks are given; only the latter are shared by `several` processes.

    Raises:
        UserError: Neither is given, or both, or a run for several processes.
    """
    if (run is None) == (predictions is None) or (predictions is None) != (masks is None):
        raise UserError("Give either a RUN, or both --predictions DIR and --masks DIR.")
    if run is not None and several:
        raise UserError("--jobs and --cluster share a folder of masks: give --predictions DIR and --masks DIR.")
