"""What is worth a warning before training on a data set, though nothing stands in the way of it."""

from collections.abc import Mapping, Sequence

from patchcl.core.names import one_sided, sided
from patchcl.data.dataset import Dataset, preview
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.orientation import different_orientations
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.splits import Split, cases_of

NOTHING_TO_LEARN = (
    "No labeled mask holds any structure: all are background, and there is nothing to learn. Annotate scans, or choose "
    "others with --labeled or --split."
)
SPARSE = 0.005
"""Share of a channel's voxels above its lowest value, below which the 99.5 percentile of all is that value."""


def general_warnings(
    dataset: Dataset, split: Split, fractions: Mapping[str, float], mirrors_decided: bool
) -> list[str]:
    """Warnings of patients and classes of a data set that is divided so; `fractions` of the labeled voxels by class."""
    used = {patient for side in split.model_dump().values() for patient in side}
    left_out = [patient for patient in dataset.patients if patient not in used]
    apart, together = ({c.patient for c in dataset.cases if (c.folder == "imagesTs") == held} for held in (True, False))
    warnings = []
    if left_out:
        warnings.append(
            f"The split names {len(left_out)} patients on no side, so they are not used: {preview(left_out)}."
        )
    if apart & together:
        warnings.append(
            f"Patients in imagesTs have scans in other folders as well; all of them are held out: "
            f"{preview(sorted(apart & together))}."
        )
    warnings += [*absent_classes(fractions), *sides_matter(dataset.classes, mirrors_decided)]
    if not cases_of(dataset, split.unlabeled, None):
        warnings.append("There are no unlabeled scans to learn from. Put some in imagesUn, or hide masks by --labeled.")
    return warnings


def taken_as_stored(grids: Sequence[Grid], plan: Plan | None) -> list[str]:
    """A warning if scans have different orientations, and the plan brings them to none."""
    found = different_orientations(grids)
    if plan is None or plan.orientation is not None or not found:
        return []
    return [
        f"Axes of scans run in different orders ({', '.join(found)}), and are taken as they are stored: some scans are "
        "oblique or do not say how they lie, or slices do not lie along one axis. Bring them to one orientation."
    ]


def sparse_channels(lit: Mapping[str, Sequence[float]], plan: Plan | None) -> list[str]:
    """A warning for each channel of which a handful of voxels decides how it is scaled; or none, by a plan of before.

    `lit` tells, by scan, the share of the voxels of each channel above its lowest value.
    """
    warnings = []
    for place, how in enumerate(() if plan is None else plan.normalise_channels):
        shares = {name: each[place] for name, each in lit.items() if place < len(each)}
        sparse = {name: share for name, share in shares.items() if 0 < share < SPARSE}
        if plan is not None and how == "percentile" and sparse:
            least = min(sparse, key=sparse.__getitem__)
            warnings.append(
                f"In {len(sparse)} of {len(lit)} scans fewer than {SPARSE:.1%} of the voxels of {plan.channels[place]} "
                f"are not background, for example {sparse[least]:.2%} in {least}. {_scaled_by(plan)}"
            )
    return warnings


def _scaled_by(plan: Plan) -> str:
    if plan.background == "ignored":
        return (
            "The 99.5 percentile of those few becomes 1. If some are noise that outshines what is sought, "
            "set plan.normalise=z_score or min_max, or remove the noise."
        )
    return (
        "The plan was made before background was left out of percentiles, so all of them become 1, however bright. "
        "Write background: ignored into it, or let the data decide."
    )


def sides_matter(classes: Sequence[str], decided: bool = False) -> list[str]:
    """Warnings of classes that a mirror would turn into one another, or into what is background.

    None where the user has `decided` about mirrors. A side alone changes no plan, since names such as left atrium are
    those of organs that have no twin.
    """
    both, alone = sided(classes), one_sided(classes)
    warnings = []
    if both and not decided:
        warnings.append(
            f"{preview(both)} differ by their side, so images are neither mirrored nor turned by quarters. Set "
            "augment.flip=true and augment.rotate_90=true if they may be all the same."
        )
    if alone and not decided:
        warnings.append(
            f"{preview(alone)} is on one side, and the other side is no class. If it looks the same there, mirrors "
            "teach what is wrong: set augment.flip=false and augment.rotate_90=false."
        )
    return warnings


def absent_classes(fractions: Mapping[str, float]) -> list[str]:
    """A warning if no labeled mask holds some class; `fractions` of the annotated voxels by class."""
    absent = [name for name, fraction in fractions.items() if fraction == 0]
    return [f"No labeled mask holds {', '.join(absent)}, so that cannot be learned."] if absent else []
