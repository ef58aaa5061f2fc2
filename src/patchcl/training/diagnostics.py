"""Diagnostics of a run by its log: warnings of what goes wrong, sentences that name the setting to change.

Everything is read from log rows alone, so a resumed run, a finished one and one that goes on are judged alike.
"""

from collections.abc import Mapping, Sequence

from patchcl.core.settings import FrozenSettings, flatten
from patchcl.runs.log import REMEDIES, Row, rescues_of

ROWS = 20
"""Log rows with a contrast term before the contrast is judged, by the later half of them."""
MARGIN = 0.05
"""How far below its collapse value a contrast that learns must have been.

Runs that had collapsed stayed within 0.04 of it on generated scans and on ACDC; others were 0.17 to 3.4 below.
"""
MIN_SEPARABILITY = 0.1
"""Fisher's ratio of the remembered embeddings above which a contrast learns though its loss is high.

Large λ lifts the loss over its collapse value while classes are still wide. Collapsed runs had 0.001 to 0.074.
"""
MIN_RANK = 2.0
"""Effective rank of the embeddings below which they all but lie on one line; half the classes where these are few.

Classes that keep away from one another need a rank of one less than their number. Two classes are never judged.
"""
VALIDATIONS = 3
"""In how many validations, one after the other, pseudo-labels must look ill: early ones often do, and recover."""
MIN_FOUND = 0.01
"""Fraction of a class's pixels that must have a right pseudo-label, or the class has next to none."""
MIN_AGREEMENT = 0.5
"""Fraction of a class's pseudo-labels that must be right; below it, they are wrong more often than right."""
MAX_ERROR = 0.3
"""Calibration error on structures from which confidence says next to nothing.

Teachers of 0.70 to 0.89 Dice had 0.05 to 0.22, one that was mostly wrong about a structure 0.35.
"""
LATER = ("raise warm_up_fraction", "raise pretrain_fraction")
"""Remedies that let pseudo-labels begin later, under the names that methods have for it."""
ENDS = (("lower", 0.0), ("raise", 1.0))
"""Values of fractions and thresholds beyond which a remedy cannot go."""


def warnings(rows: Sequence[Row], settings: FrozenSettings | None = None) -> list[str]:
    """Warnings of what goes wrong in a run, with what to do about it; none if all is well or it is too early to say.

    Args:
        rows: The run's log, as far as it goes.
        settings: Of the method. Remedies that it has no setting for are not offered.
    """
    return list(_standing(rows, settings).values())


def new_warnings(rows: Sequence[Row], settings: FrozenSettings | None = None) -> list[str]:
    """Those of `warnings` that were not there at the validation before the last."""
    validations = [index for index, row in enumerate(rows) if "validation_dice" in row]
    before = _standing(rows[: validations[-2] + 1], settings) if len(validations) > 1 else {}
    return [warning for about, warning in _standing(rows, settings).items() if about not in before]


def class_names(rows: Sequence[Row]) -> list[str]:
    """The classes whose pseudo-labels were judged in any of `rows`."""
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("accepted_"))
    return [key.removeprefix("accepted_") for key in keys]


def _standing(rows: Sequence[Row], settings: FrozenSettings | None) -> dict[str, str]:
    """Every warning by what it is about: the contrast, certain classes, or the calibration."""
    known = flatten(settings.model_dump(), "method.") if settings else {}
    values = {name: value for name, value in known.items() if isinstance(value, int | float)}
    recent = [row for row in rows if "validation_dice" in row][-VALIDATIONS:]
    standing = {f"rescue {rescues_of(rows)}": _rescue_warning(rescues_of(rows))}
    standing["contrast"] = _contrast_warning(rows, values) or _rank_warning(recent, values)
    if len(recent) == VALIDATIONS and _learns_from_pseudo_labels(rows):
        wrong = _always_below(MIN_AGREEMENT, "agreement", recent)
        rare = _always_below(MIN_FOUND, "found", recent)
        missing = {name: rare[name] for name in rare if name not in wrong}
        standing["wrong " + ", ".join(wrong)] = _wrong_warning(wrong, values)
        standing["missing " + ", ".join(missing)] = _missing_warning(missing, values)
        standing["calibration"] = _calibration_warning(recent, values)
    return {about: warning for about, warning in standing.items() if warning}


def _rescue_warning(rescues: int) -> str:
    if not rescues:
        return ""
    return (
        f"Training diverged and was rescued with {REMEDIES[rescues - 1]}, so this is not a run by its settings alone: "
        "lower training.learning_rate, and do not compare it with runs that were not rescued."
    )


def _contrast_warning(rows: Sequence[Row], values: Mapping[str, float]) -> str:
    judged = [row for row in rows if "contrast_over_collapse" in row]
    later = judged[len(judged) // 2 :]
    if len(judged) < ROWS:
        return ""
    over = [row["contrast_over_collapse"] for row in later if row.get("contrast") != 0]
    if not over:
        return (
            f"There was nothing to contrast in the last {len(later)} log rows, for want of embeddings of two classes: "
            f"lower {_now('method.contrast.memory_min_size', values)} or {_now('method.contrast.coverage', values)}."
        )
    apart = [row["separability"] for row in rows if "separability" in row][-1:]
    wide = max(over) > MARGIN and apart and apart[0] >= MIN_SEPARABILITY
    if min(over) <= -MARGIN or wide:
        return ""
    return (
        f"The contrast has not moved from its collapse value in the last {len(later)} log rows (it was never more than "
        f"{max(0.0, -min(over)):.3f} below): {_contrast_remedies(values)}."
    )


def _rank_warning(recent: Sequence[Row], values: Mapping[str, float]) -> str:
    ranks = [row["effective_rank"] for row in recent if row.get("effective_rank", 0) > 0]
    classes = len(class_names(recent))
    if classes < 3 or len(ranks) < VALIDATIONS or max(ranks) >= min(MIN_RANK, classes / 2):
        return ""
    return (
        f"The embeddings of all {classes} classes all but lie on one line (effective rank {ranks[-1]:.1f}): "
        f"{_contrast_remedies(values)}."
    )


def _always_below(limit: float, figure: str, recent: Sequence[Row]) -> dict[str, float]:
    """The last figure of every class for which all the recent ones are below `limit`."""
    figures = {name: [row.get(f"{figure}_{name}", limit) for row in recent] for name in class_names(recent)}
    return {name: values[-1] for name, values in figures.items() if max(values) < limit}


def _wrong_warning(agreement: Mapping[str, float], values: Mapping[str, float]) -> str:
    if not agreement:
        return ""
    return (
        f"Pseudo-labels are wrong more often than right: of those accepted, the masks confirm {_percent(agreement)}. "
        f"{_remedies(values, 'raise confidence_threshold', *LATER, 'lower consistency_weight')}."
    )


def _missing_warning(recall: Mapping[str, float], values: Mapping[str, float]) -> str:
    if not recall:
        return ""
    return (
        f"Next to no pixel of some classes gets a right pseudo-label: {_percent(recall)}. "
        f"{_remedies(values, 'lower confidence_threshold', *LATER)}."
    )


def _percent(fractions: Mapping[str, float]) -> str:
    return ", ".join(f"{100 * fraction:.1f} % of {name}" for name, fraction in fractions.items())


def _calibration_warning(recent: Sequence[Row], values: Mapping[str, float]) -> str:
    errors = [row["ece_structures"] for row in recent if "ece_structures" in row]
    if len(errors) < VALIDATIONS or min(errors) <= MAX_ERROR:
        return ""
    return (
        f"The teacher's confidence says little about structures: it is off by {errors[-1]:.2f} on average. "
        f"{_remedies(values, *LATER, 'lower consistency_weight')}."
    )


def _learns_from_pseudo_labels(rows: Sequence[Row]) -> bool:
    """Whether the last step that was logged did; a warm-up does not, nor does a supervised run."""
    last: Row = next((row for row in reversed(rows) if "loss" in row), {})
    return "consistency" in last or "accepted" in last


def _contrast_remedies(values: Mapping[str, float]) -> str:
    weight, temperature = (_now(f"method.contrast.{name}", values) for name in ("weight", "temperature"))
    return f"raise {weight}, or lower {temperature}"


def _remedies(values: Mapping[str, float], *moves: str) -> str:
    """Those of `moves` that the method has a setting for, and one that always helps, as the start of a sentence."""
    named = [(move, f"method.{name}") for move, name in (words.split() for words in moves)]
    there = [(move, name) for move, name in named if name in values and (move, values[name]) not in ENDS]
    able = [f"{move} {_now(name, values)}" for move, name in there]
    advice = ", ".join(able) + " or annotate more scans" if able else "annotate more scans"
    return advice[0].upper() + advice[1:]


def _now(name: str, values: Mapping[str, float]) -> str:
    """The setting, and its value where that is known."""
    return f"{name} (now {values[name]:g})" if name in values else name
