"""Settings of version 0.1 that have other names now."""

RENAMED_SETTINGS = {
    "method.warm_up_fraction": "method.warm_up_fraction",
    "method.ramp_fraction": "method.ramp_fraction",
    "method.pretrain_fraction": "method.pretrain_fraction",
    "method.box_fraction": "method.box_fraction",
    "method.mix_probability": "method.mix_probability",
    "method.labeled_mix_probability": "method.labeled_mix_probability",
    "method.contrast.weight_left": "method.contrast.final_weight_fraction",
    "method.contrast.patch_fraction": "method.contrast.patch_fraction",
    "method.contrast.memory_min_size": "method.contrast.memory_min_size",
    "method.contrast.spread_weight": "method.contrast.covariance_weight",
    "method.contrast.covariance_ramp_fraction": "method.contrast.covariance_ramp_fraction",
    "method.contrast.negatives": "method.contrast.num_negatives",
    "augment.quarter_turns": "augment.rotate_90",
    "augment.one_at_a_time": "augment.ssl4mis_policy",
}
"""Dotted key that version 0.1 knew -> the key of the same setting now, for all sections of the settings tree."""
