"""The table of all checks."""

from __future__ import annotations

from . import (
    coverage,
    evaluation,
    failures,
    figures,
    horizons,
    inputs,
    loaders,
    losses,
    modes,
    monitors,
    optimizers,
    parameters,
    schedules,
    targets,
    zeros,
)
from .case import Check

_FUNCTIONS = (
    parameters.nothing_to_train,
    parameters.parameters_not_optimized,
    parameters.optimizer_holds_strangers,
    parameters.shared_between_optimizers,
    parameters.parameters_without_gradient,
    parameters.outputs_constant,
    zeros.zero_initialized,
    modes.left_in_eval,
    modes.frozen_batchnorm_moves,
    modes.batch_of_one_with_batchnorm,
    evaluation.active_in_evaluation,
    optimizers.learning_rate,
    optimizers.weight_decay_on_norms,
    optimizers.clipping_without_effect,
    optimizers.clipping_too_tight,
    optimizers.not_finite_gradient,
    schedules.scheduler_of_another,
    schedules.scheduler_unit,
    schedules.scheduler_length,
    horizons.warmup_outlasts_run,
    horizons.average_outlasts_run,
    horizons.accumulation_beyond_epoch,
    failures.step_fails,
    losses.no_gradient,
    losses.softmax_before_loss,
    losses.nll_without_log_softmax,
    losses.loss_reduction,
    coverage.loss_ignores_samples,
    targets.targets_all_alike,
    targets.labels_out_of_range,
    targets.outputs_do_not_fit_classes,
    targets.target_shape,
    targets.target_dtype,
    inputs.not_finite,
    inputs.unscaled_inputs,
    inputs.constant_inputs,
    inputs.unscaled_targets,
    loaders.loader_fails,
    loaders.same_batch,
    loaders.train_not_shuffled,
    loaders.val_shuffled,
    loaders.val_drop_last,
    loaders.val_overlaps_train,
    figures.metric_names,
    figures.metric_per_sample,
    monitors.monitor_mode,
    monitors.monitored_figure,
)

#: Every check by its name; the first line of its docstring says what it looks for.
CHECKS: dict[str, Check] = {
    function.__name__: Check(function.__name__, (function.__doc__ or "").partition("\n")[0], function)
    for function in _FUNCTIONS
}
