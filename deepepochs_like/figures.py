"""The figures of one task in one epoch: its loss, its metrics, and the patches its steps return."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from .errors import NonFiniteLossError, PatchError, StateError, StepError
from .patches import Outputs, PatchBase, RunningLoss, ValuePatch
from .patches.base import check_value, own_copy, same_kind, shown
from .patches.intact import refuse, version_of
from .patches.slot import Slot
from .readout import read_out
from .types import StateDict, Weight
from .utils.warn import warn


class Figures:
    """Take in batches without reading anything back; give figures when they are asked for.

    Args:
        slots: the task's metrics.
        check_finite: a loss that is not finite is an error when the figures are read.
        prefix: put before every name.
    """

    def __init__(self, slots: Sequence[Slot], check_finite: bool = False, prefix: str = "") -> None:
        self.slots, self.check_finite, self.prefix = slots, check_finite, prefix
        self.losses = RunningLoss()
        self.patches: dict[str, Any] = {}
        self.batches, self.released = 0, False
        self._saved: dict[str, StateDict] = {}
        #: What the batch in progress has given so far: its loss with its weight, its outputs (of several the last), and
        #: the patches its step returned. Loss and outputs count when the batch is over, so that one that is skipped
        #: counts in nothing; only a torchmetrics object that fails does so when the update has been made.
        self.loss: Any = None
        self.outputs: Any = None
        self.fed: Any = ()
        self.returned: Mapping[str, Any] = {}
        for slot in slots:
            slot.reset()
        #: The slots that take batches in: of those that would keep the same, the first does it for all.
        leaders: dict[Any, Slot] = {}
        for slot in slots:
            leaders.setdefault(slot.family or id(slot), slot)
        self._leaders = tuple(leaders.values())
        self._followers = [(s, leaders[s.family]) for s in slots if s.family and leaders[s.family] is not s]
        self._preparing: Sequence[Slot] = slots
        #: Whether outputs are kept that are to stay as they are, which torch tells where it counts changes.
        self._noting = "tensor" in leaders

    def take_outputs(self, preds: Any, targets: Any, weight: Weight) -> None:
        """Show a batch to the metrics, so that an error in one comes before the weights are updated."""
        self.outputs = outputs = Outputs(preds, targets, weight)
        self.fed = self._leaders
        if self._noting:
            # Of what was taken in: that may be a copy.
            if type(preds) is torch.Tensor is type(targets):
                try:
                    outputs.versions = outputs.preds._version, outputs.targets._version
                except RuntimeError:  # in inference mode; to be told so is no little thing in every batch
                    self._noting = False
            else:
                outputs.versions = version_of(outputs.preds), version_of(outputs.targets)
        if self._preparing:
            prepare = Slot.prepare if self.batches else Slot.prepare_first
            for slot in self._preparing:
                prepare(slot, self.outputs)
            self._preparing = [slot for slot in self._preparing if slot.prepares]

    def take_patches(self, patches: Any, step: Any) -> None:
        """Merge what a step returned.

        Raises:
            StepError: it is something other than a dict of Patches; the message names the step.
        """
        if not isinstance(patches, Mapping):
            raise StepError(f"{called(step)} returned {shown(patches)}; a step returns None or a dict {{name: Patch}}")
        returned: dict[str, Any] = {}
        for key, patch in patches.items():
            if not isinstance(patch, PatchBase):
                raise StepError(
                    f"{called(step)} returned {shown(patch)} under {key!r}; wrap it in a Patch, e.g. "
                    "ValuePatch(batch_size).load(value)"
                )
            returned[key if patch.name is None else patch.name] = patch  # of two with one name the later counts
        for name, patch in returned.items():
            self.add(name, patch)
        self.returned = returned

    def add(self, name: str, patch: Any) -> None:
        """Merge a patch into the figure of a name."""
        mine = self.patches.get(name)
        if mine is None:
            mine = own_copy(patch)  # never the step's own object: it may be kept and changed there
            if name in self._saved:
                mine.load_state_dict(self._saved.pop(name)["state"])
                mine = mine.merge_(patch)
        else:
            same_kind(mine, patch, name)
            mine = mine.merge_(patch)
        self.patches[name] = mine

    def of(self, loss: Any, outputs: Outputs | None, returned: Mapping[str, Any]) -> dict[str, Any]:
        """A batch's own figures, 0-dimensional tensors on their device, from its `loss`, `outputs` and `returned`."""
        figures: dict[str, Any] = {} if loss is None else {"loss": loss[0]}
        if outputs is not None:
            for slot in self.slots:
                add_named(figures, slot.name, slot.of_batch(outputs))
        for name, patch in returned.items():
            add_named(figures, name, check_value(patch(), name))
        return {f"{self.prefix}{name}": torch.as_tensor(value) for name, value in figures.items()}

    def glance(self) -> dict[str, Any]:
        """The figures so far that cost nothing to compute: the loss, and metrics kept as sums (numbers, read back)."""
        patches = [*((slot.name, slot.patch) for slot in self.slots), *self.patches.items()]
        return self._read([(name, patch) for name, patch in patches if isinstance(patch, ValuePatch) and patch.sums])

    def read(self) -> dict[str, Any]:
        """The epoch's figures, as NumPy values, in one transfer from the device.

        Raises:
            NonFiniteLossError: the loss was not finite somewhere, and that is to be an error.
            PatchError: what a figure is made of was changed in place.
        """
        for saved in self._saved.values():
            refuse(saved.get("spoilt"))
        if lost := [name for name, saved in self._saved.items() if not saved["value"]]:
            warn(
                f"the steps returned no {', '.join(lost)} since the run was resumed, so what was counted of it before "
                "is missing from this epoch's figures; return every patch in every batch"
            )
        for slot, leader in self._followers:
            slot.follow(leader)
        with ExitStack() as reading:
            for leader in self._leaders:
                if leader.family == "tensor" and leader.taken:
                    others = [slot.patch for slot, first in self._followers if first is leader]
                    reading.enter_context(leader.patch.reading(others))
            figures = self._read([*((s.name, s.patch) for s in self.slots if s.taken), *self.patches.items()])
        for slot in self.slots:
            slot.check_mean()
        return figures

    def release(self) -> None:
        """Let go of what was kept for the read-out: outputs of an epoch may be large."""
        self.released = True
        self.loss, self.outputs, self.fed, self.returned, self.patches = None, None, (), {}, {}
        for slot in self.slots:
            slot.reset()

    def _read(self, patches: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        if (mean := self.losses.mean()) is not None:
            figures["loss"] = mean
        for name, patch in patches:
            add_named(figures, name, check_value(patch(), name))
        for saved in self._saved.values():  # of a task that was cut off behind its last batch: nothing is added to them
            figures.update(saved["value"] or {})
        values, marker = read_out(figures, self.losses.marker() if self.check_finite else None)
        sign = values.get("loss", 0.0) if marker is None else marker
        if self.check_finite and mean is not None and not math.isfinite(sign) and (bad := self.losses.first_bad()):
            self._refuse(*bad)
        return {f"{self.prefix}{name}": number for name, number in values.items()} if self.prefix else values

    def _refuse(self, first: int, value: float) -> None:
        batch = first * self.batches // max(self.losses.count, 1) if self.batches else first
        raise NonFiniteLossError(
            f"the training loss became {value} at batch {batch} of the epoch (counted from 0); lower the learning "
            "rate, clip the gradients or check that batch's data. To go on regardless: Trainer(check_finite=False)",
            batch,
            value,
        )

    def state_dict(self, ended: bool = False) -> StateDict:
        """Everything half-way through the epoch.

        Args:
            ended: no batch may follow. A step's patches are restored when the step next returns their like; where it
                may not, their values are kept beside their states.
        """
        patches = dict(self._saved)
        for name, patch in self.patches.items():
            value: dict[str, Any] = {}
            spoilt = None
            if ended:
                try:
                    add_named(value, name, check_value(patch(), name))
                except PatchError as error:  # which is for the one who reads the figure, not for the one who saves
                    spoilt = str(error)
                value = {key: number.tolist() for key, number in read_out(value)[0].items()}
            patches[name] = {"state": patch.state_dict(), "value": value, "spoilt": spoilt}
        slots = [slot.state_dict() if slot in self._leaders else {"follows": True} for slot in self.slots]
        return {"batches": self.batches, "loss": self.losses.state_dict(), "slots": slots, "patches": patches}

    def load_state_dict(self, state: StateDict, device: torch.device | None = None) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            StateError: the task has other metrics than when the state was taken.
        """
        if len(state["slots"]) != len(self.slots):
            raise StateError(
                f"the epoch was cut off with {len(state['slots'])} metrics in a task that now has {len(self.slots)}"
            )
        self.batches = state["batches"]
        self.losses.load_state_dict(state["loss"], device)
        for slot, saved in zip(self.slots, state["slots"], strict=True):
            follows = saved is not None and saved.get("follows") is True
            if follows and slot in self._leaders:
                raise StateError(
                    f"the epoch was cut off when metric {slot.name!r} was added up with another one's outputs, which "
                    "it is not now: resume with the metrics, and the metric_patch, of the run"
                )
            if not follows and slot in self._leaders:
                slot.load_state_dict(saved, device)
        self._saved = dict(state["patches"])


def add_named(figures: dict[str, Any], name: str, value: Any) -> None:
    """Enter a value under its name; a dict of values under name + key."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            figures[f"{name}{key}"] = item
    else:
        figures[name] = value


def called(step: Any) -> str:
    """How messages call a step: ``MyTask.train_step``."""
    function = step.func if isinstance(step, partial) else step
    owner = getattr(function, "__self__", None)
    own = getattr(function, "__name__", str(function))
    return own if owner is None else f"{type(owner).__name__}.{own}"
