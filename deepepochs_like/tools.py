"""What a trainer can do around a run: look into it, try it out, find good arguments for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from .checks import check_count
from .errors import refuse_unknown
from .summary import Summary, summarize
from .types import Stage

if TYPE_CHECKING:
    from .callbacks.batch_size_finder import BatchSizeFinding
    from .callbacks.lr_finding import LRFinding
    from .doctor import Diagnosis
    from .dry_runs import DevRun, Overfit


class Tools:
    """A trainer as far as it is tried out before a run; nothing here leaves a trace in it."""

    models: dict[str, Any]

    def __repr__(self) -> str:
        own = vars(self)  # one that is not made yet, or is no longer, can be shown, too
        nets = {name: type(getattr(handle, "model", handle)).__name__ for name, handle in own.get("models", {}).items()}
        parts = list(nets.values()) if list(nets) == ["model"] else [f"{name}: {kind}" for name, kind in nets.items()]
        parts += [f"{name}={own[name]}" for name in ("device", "epochs") if name in own]
        return f"{type(self).__name__}({', '.join(parts)})"

    def summary(self, data: Any = None, *, depth: int | None = None) -> Summary:
        """Look through the model: its layers, parameters, FLOPs and memory. Print it, or let a notebook show it.

        With an input the model is called on it once, in evaluation mode and without gradients. That leaves no trace:
        modes, buffers, gradients and random generators are as they were, a loader's too. Forward hooks of the model's
        own are called, as they always are.

        Args:
            data: what to call the model on: a tensor; a batch as a loader yields it, a tuple or list whose last item is
                the target, or a dict; what a step gets as ``batch_x``; or a loader, of which the first batch is taken.
                With several models a dict of these by the models' names. By default no model is called: parameters
                alone are listed.
            depth: layers further down are counted with the one that holds them; 0 is the whole model; None is all.

        Raises:
            ArgumentError, ArgumentTypeError, LoaderError: `data` is nothing that the model can be called on.

        Example:
            >>> from deepepochs_like import Trainer
            >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
            >>> print(Trainer(net, device="cpu", verbose=0).summary(torch.zeros(32, 8)).text(60))
            layer  type    output    parameters    FLOP
            -------------------------------------------
            0      Linear  [32, 16]         144  8.19 k
            1      ReLU    [32, 16]           -       -
            2      Linear  [32, 2]           34  2.05 k
            -------------------------------------------
            parameters: 178, 178 trained
            a forward pass of [32, 8]: 10.2 kFLOP, 320 a sample
            memory in training, about 8.0 KiB: parameters 712 B,
              gradients 712 B, optimizer 1.4 KiB, activations 5.2 KiB
        """
        return summarize(self, data, depth)

    def find_lr(
        self,
        train_dl: Any,
        *,
        low: float = 1e-7,
        high: float = 10.0,
        steps: int = 100,
        smoothing: float = 0.9,
        diverge: float = 4.0,
        opt: Any = None,
        step: Any = None,
        batch_size: Any = None,
        **unknown: NoReturn,
    ) -> LRFinding:
        """Train for a moment with ever higher learning rates, and tell which is a good one; it leaves no trace.

        The rate grows by the same factor with every update, the rates of all parameter groups keeping their ratios;
        schedulers rest. It ends at `high`, or where the loss diverges or is not finite. Afterwards everything is as it
        was, byte for byte: weights, optimizers, generators, loaders, callbacks. Those callbacks take part without which
        training is not the same, such as `AMP` and `GradClip`.

        Args:
            train_dl: batches, or an `EpochTask`; it is gone through again where it ends.
            low: the lowest rate, of the first parameter group that is trained.
            high: the highest.
            steps: how many are tried, each with one update of the weights.
            smoothing: what the running average of the losses keeps of itself, from 0 (nothing) to below 1.
            diverge: the sweep ends where the average is so many times its best.
            opt: index or name of the optimizer whose rates are swept; None for all. The loss looked at is the one that
                it is updated by; with several the first one's.
            step: as in `fit`.
            batch_size: as in `fit`.
            **unknown: nothing else; a misspelt keyword is an error that names the nearest.

        Returns:
            The losses by learning rate, with two suggestions: print it for a chart, or ``.plot("lr.png")``.

        Raises:
            ArgumentError, ArgumentTypeError: an argument is not what is needed, or a run is in progress.

        Example:
            >>> from deepepochs_like import Trainer
            >>> net, data = torch.nn.Linear(2, 1), [(torch.ones(4, 2), torch.ones(4, 1))]
            >>> finding = Trainer(net, torch.nn.functional.mse_loss, verbose=0).find_lr(data, steps=50)
            >>> 1e-7 < finding.suggestion < 10
            True
        """
        from .callbacks.lr_find import SweepOptions, sweep

        refuse_unknown("find_lr", unknown, Tools.find_lr)
        options = SweepOptions(low, high, steps, smoothing, diverge, opt)
        return sweep(self, train_dl, options, step, batch_size, smoothing)

    def find_batch_size(
        self, dataset: Any, *, start: int = 2, most: int | None = None, steps: int = 3, step: Any = None
    ) -> BatchSizeFinding:
        """Find the largest batch size whose training fits into memory; it leaves no trace, as `find_lr`.

        It is doubled until there is no memory left, then the gap is halved until it is closed. Each size is trained for
        a few updates, with samples in the dataset's own order; where they differ in size, leave a margin. On a CPU a
        system may end the whole process rather than refuse memory: give `most` there.

        Args:
            dataset: a dataset, a DataLoader (for its dataset and collate_fn), or an `EpochTask` over one.
            start: the first size.
            most: the largest size to try; by default the number of samples.
            steps: updates of the weights per size.
            step: as in `fit`.

        Returns:
            The ``suggestion``, and what was tried; print it for a table.

        Raises:
            ArgumentError, ArgumentTypeError: no batches can be made of `dataset`, or a run is in progress.

        Example:
            >>> from deepepochs_like import Trainer
            >>> data = torch.utils.data.TensorDataset(torch.rand(16, 2), torch.rand(16, 1))
            >>> trainer = Trainer(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, verbose=0)
            >>> trainer.find_batch_size(data).suggestion
            16
        """
        from .callbacks.batch_size_finder import search

        return search(self, dataset, start=start, most=most, steps=steps, step=step)

    def fast_dev_run(self, train_dl: Any, val_dl: Any = None, batches: int = 2, *, step: Any = None) -> DevRun:
        """Rehearse a run: a few batches of training and validation through everything, without a trace.

        Hooks, metrics, schedulers and the saving of a state are tried, too. Of the callbacks those stay out that write
        files or show something. What fails raises its own error, and everything is as it was then, too.

        Args:
            train_dl: batches, or an `EpochTask`.
            val_dl: the same, for validation.
            batches: how many of each.
            step: as in `fit`.

        Returns:
            What worked; print it.

        Example:
            >>> from deepepochs_like import Trainer
            >>> net, data = torch.nn.Linear(2, 1), [(torch.ones(4, 2), torch.ones(4, 1))]
            >>> run = Trainer(net, torch.nn.functional.mse_loss, verbose=0).fast_dev_run(data, data)
            >>> run.batches, run.updates
            ({'train': 1, 'val': 1}, 1)
        """
        from .dry_runs import fast_dev_run

        return fast_dev_run(self, train_dl, val_dl, batches, step)

    def overfit_batch(
        self, train_dl: Any, steps: int = 100, *, lr: float | None = None, threshold: float = 0.1, step: Any = None
    ) -> Overfit:
        """Train on the first batch alone, and say whether the model can learn it; it leaves no trace, as `find_lr`.

        A model that cannot learn one batch by heart will not learn more: its gradients, its learning rate, or what goes
        with what in loss and target is wrong.

        Args:
            train_dl: batches, of which the first is taken; or an `EpochTask`.
            steps: updates of the weights.
            lr: the learning rate; by default the highest that the optimizer and its scheduler would have, at rest.
            threshold: the batch counts as learned where the loss falls to this share of the first.
            step: as in `fit`.

        Returns:
            The ``losses``, and whether it was ``learned``; print it for that in words.

        Raises:
            ArgumentError, LoaderError: an argument is not what is needed; there is no batch; or a run is in progress.

        Example:
            >>> from deepepochs_like import Trainer
            >>> net, data = torch.nn.Linear(2, 1), [(torch.ones(4, 2), torch.ones(4, 1))]
            >>> Trainer(net, torch.nn.functional.mse_loss, verbose=0).overfit_batch(data, lr=0.1).learned
            True
        """
        from .dry_runs import overfit_batch

        return overfit_batch(self, train_dl, steps, lr, threshold, step)

    def check(
        self,
        train_dl: Any = None,
        val_dl: Any = None,
        *,
        metrics: Any = None,
        train_metrics: Any = None,
        val_metrics: Any = None,
        train_tasks: Any = None,
        val_tasks: Any = None,
        epochs: int | None = None,
        max_steps: int | None = None,
        batch_size: Any = None,
        step: Any = None,
        batches: int = 2,
        skip: Any = (),
    ) -> Diagnosis:
        """Look for silent faults before a run, and name each with its fix. Takes what `fit` is going to be given.

        The step is tried on copies of the model, with the first batches. It leaves no trace: models, optimizers,
        gradients, modes, random generators and loaders are as they were, callbacks are not called, and nothing is
        written. What cannot be seen into, such as a step of your own, is not guessed at: `Diagnosis.left_out` names the
        checks that were left out, with the reason.

        Args:
            train_dl: as to `fit`.
            val_dl: as to `fit`.
            metrics: as to `fit`.
            train_metrics: as to `fit`.
            val_metrics: as to `fit`.
            train_tasks: as to `fit`.
            val_tasks: as to `fit`.
            epochs: as to `fit`; by default the trainer's.
            max_steps: as to `fit`.
            batch_size: as to `fit`.
            step: as to `fit`.
            batches: how many batches of every loader are looked at.
            skip: names of checks to leave out.

        Returns:
            The findings: errors, warnings, hints. It is true where there is neither error nor warning.

        Raises:
            ArgumentError, ArgumentTypeError: there is nothing to look at, or no such check.

        Example:
            >>> from torch import nn
            >>> from torch.utils.data import DataLoader, TensorDataset
            >>> from deepepochs_like import Trainer
            >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(1))
            >>> data = TensorDataset(torch.randn(60, 4), torch.arange(60) % 3)
            >>> diagnosis = Trainer(net, nn.CrossEntropyLoss(), verbose=0).check(DataLoader(data, 20, shuffle=True))
            >>> diagnosis.ok, diagnosis.names
            (False, ['softmax_before_loss'])
        """
        from .doctor import examine

        check_count("batches", batches)
        parts: dict[Stage, Any] = {
            "train": (train_dl, train_tasks, [train_metrics, metrics]),
            "val": (val_dl, val_tasks, [val_metrics, metrics]),
        }
        return examine(self, parts, epochs, max_steps, batch_size, step, batches, skip)
