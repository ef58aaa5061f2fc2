"""Folds: every patient with masks is held out once, and trains the runs of all other folds."""

from patchcl.core.errors import UserError
from patchcl.data.dataset import Dataset
from patchcl.data.split_settings import SplitSettings
from patchcl.data.splits import Split, count_folds, make_split


def fold_splits(dataset: Dataset, settings: SplitSettings, count: int) -> tuple[Split, ...]:
    """The split of each of `count` folds: its patients validate, those of the others are labeled.

    All patients with masks that are not for testing are shared out, in the shuffled order of `settings.seed`; of
    `settings.labeled` only those, and the masks of the others are hidden. nnU-Net's splits_final.json says itself who
    is in which fold.

    Raises:
        UserError: There are fewer patients with masks than folds, or the file has another number of folds.
    """
    if settings.file is not None and (known := count_folds(settings.file)) is not None:
        if known != count:
            raise UserError(
                f"{settings.file} has {known} folds, and --folds asks for {count}. Give --folds {known}, or draw them "
                "with --set split.file=null."
            )
        return tuple(make_split(dataset, settings.model_copy(update={"fold": fold})) for fold in range(count))
    whole = make_split(dataset, settings)
    limited = settings.labeled is not None
    pool = whole.labeled if limited else (*whole.labeled, *whole.validation)
    if not 2 <= count <= len(pool):
        raise UserError(
            f"--folds is {count}, but {dataset.root} has {len(pool)} patients with masks to share out. "
            f"Choose {'2' if len(pool) <= 2 else f'2 to {len(pool)}'} folds."
        )
    return tuple(
        Split(
            labeled=tuple(patient for place, patient in enumerate(pool) if place % count != fold),
            unlabeled=(*whole.unlabeled, *(whole.validation if limited else ())),
            validation=pool[fold::count],
            test=whole.test,
        )
        for fold in range(count)
    )


def joined(splits: tuple[Split, ...]) -> Split:
    """The split of all folds together: nobody validates, and everybody who is labeled in one fold is labeled."""
    labeled = dict.fromkeys(patient for split in splits for patient in (*split.labeled, *split.validation))
    unlabeled = dict.fromkeys(patient for split in splits for patient in split.unlabeled if patient not in labeled)
    return Split(labeled=tuple(labeled), unlabeled=tuple(unlabeled), validation=(), test=splits[0].test)
