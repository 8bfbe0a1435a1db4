"""Check whether the step fails at all."""

from __future__ import annotations

from collections.abc import Iterator

from .case import Case, Found
from .targets import explains_failure


def step_fails(case: Case) -> Iterator[Found]:
    """The step fails on the first batch."""
    trial = case.tried()
    if trial.failed is not None and not trial.passes and not explains_failure(case):
        error = trial.failed
        message = f"The model fails on the first batch: {type(error).__name__}: {_first_line(error)}."
        yield "error", message, _help(error), {"error": repr(error)}
        return
    for one in trial.passes[:1]:
        if one.error is not None and not explains_failure(case):
            message = f"The loss fails on the first batch: {type(one.error).__name__}: {_first_line(one.error)}."
            yield "error", message, _help(one.error), {"error": repr(one.error)}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")


def _help(error: BaseException) -> str:
    text = str(error)
    if "mat1 and mat2" in text or ("expected input" in text and "channels" in text):
        return "Give the first layer the size of the inputs, or flatten them: nn.Flatten()."
    if "index out of range in self" in text:
        return "An index is not in the embedding: give it num_embeddings above the largest."
    if "between 0 and 1" in text:
        return "BCELoss takes probabilities: use BCEWithLogitsLoss, or end the model in a sigmoid."
    if "Expected more than 1 value" in text:
        return "BatchNorm needs more than one sample: use larger batches."
    if "dtype" in text or "scalar type" in text:
        return "Bring inputs, targets and weights to one type, such as .float()."
    return "Compare what the loader yields, (*inputs, target), with what forward() and the loss take."
