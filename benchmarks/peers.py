"""Other libraries, as contenders: each as its documentation has it, and where it allows for it, in a lean form.

They run in an environment of their own (`make bench-peers`) and are imported when they run. "lean" is without progress
bars, loggers and files, and with what the best loop does for its figures, where a library lets one write the step.
All get the same fused optimizer where they take one, and the same loaders.

Where checkpoints are asked for, each keeps model and optimizer in the way that its documentation has for one every so
many steps. Skorch, poutyne and fastai have callbacks that save after epochs only: theirs is a callback of a few lines
that calls what these call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .consoles import to_pipe
from .contender import Contender, Job
from .loops import CLASSES, Rows, adam, macro

#: What the table calls them, and what is imported.
MODULES = {
    "ignite": "ignite.engine",
    "skorch": "skorch",
    "lightning": "lightning",
    "accelerate": "accelerate.accelerator",
    "torchtnt": "torchtnt.framework",
    "poutyne": "poutyne",
    "fastai": "fastai.learner",
    "transformers": "transformers.trainer",
    "keras": "keras",
}


class Kept:
    """The best loop's way with figures, for steps that one writes oneself."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.rows: Rows = []
        self.begin()

    def begin(self) -> None:
        """Begin a stage."""
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self.total: Any = 0.0
        self.right: Any = 0
        self.n = 0
        self.cm = torch.zeros(CLASSES**2, dtype=torch.int64)

    def add(self, loss: Tensor, out: Tensor, y: Tensor) -> None:
        """Take in a batch."""
        self.kept.append((loss.detach(), out.detach(), y))
        if len(self.kept) == 64:
            self.reduce()

    def reduce(self) -> None:
        """Add up what was kept."""
        if not self.kept:
            return
        losses, outs, ys = zip(*self.kept, strict=True)
        self.kept = []
        sizes = [len(y) for y in ys]
        self.n += sum(sizes)
        y, p = torch.cat(ys), torch.cat(outs).argmax(1)
        self.total = self.total + torch.dot(torch.stack(losses), torch.tensor(sizes, dtype=torch.float32))
        self.right = self.right + (p == y).sum()
        if self.job.report == "macro":
            self.cm = self.cm + torch.bincount(y * CLASSES + p, minlength=CLASSES**2)

    def end(self, stage: str) -> None:
        """End a stage, and begin another."""
        self.reduce()
        row = {"loss": float(self.total) / self.n, "accuracy": float(self.right) / (self.n * self.job.per_sample)}
        if self.job.report == "macro":
            row.update(macro(self.cm.view(CLASSES, CLASSES)))
        if stage == "train":
            self.rows.append({})
        self.rows[-1][stage] = row
        self.begin()


class Read(Kept):
    """The tutorials' way: each batch's figures are read back."""

    def begin(self) -> None:
        """Begin a stage."""
        super().begin()
        self.preds: list[Tensor] = []
        self.targets: list[Tensor] = []

    def add(self, loss: Tensor, out: Tensor, y: Tensor) -> None:
        """Take in a batch."""
        pred = out.argmax(1)
        self.total += loss.item() * len(y)
        self.right += (pred == y).sum().item()
        self.n += len(y)
        if self.job.report == "macro":
            self.preds.append(pred)
            self.targets.append(y)

    def reduce(self) -> None:
        """Count what an epoch's matrix needs."""
        if self.preds:
            found = torch.cat(self.targets) * CLASSES + torch.cat(self.preds)
            self.cm = torch.bincount(found, minlength=CLASSES**2)


def _ignite_saves(job: Job, trainer: Any, opt: torch.optim.Optimizer) -> None:
    if job.save_every is None:
        return
    from ignite.engine import Events
    from ignite.handlers import Checkpoint, DiskSaver

    what = {"model": job.net, "optimizer": opt, "trainer": trainer}
    saver = Checkpoint(what, DiskSaver(str(job.folder), require_empty=False), n_saved=1)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=job.save_every), saver)


def ignite_default(job: Job) -> Rows:
    """Its supervised trainer and evaluator with its metrics and its bar."""
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.handlers.tqdm_logger import ProgressBar
    from ignite.metrics import Accuracy, Loss

    rows: Rows = []
    opt = adam(job.net, job.fused)
    trainer = create_supervised_trainer(
        job.net, opt, F.cross_entropy, output_transform=lambda x, y, out, loss: (out, y, {"loss": loss})
    )
    evaluator = create_supervised_evaluator(job.net)
    # The loss of training is there already.
    Loss(lambda out, y, loss: loss).attach(trainer, "loss")
    Accuracy(output_transform=lambda found: found[:2]).attach(trainer, "accuracy")
    Loss(F.cross_entropy).attach(evaluator, "loss")
    Accuracy().attach(evaluator, "accuracy")
    ProgressBar().attach(trainer)

    def validate(engine: Any) -> None:
        rows.append({"train": dict(engine.state.metrics)})
        if job.val_dl is not None:
            evaluator.run(job.val_dl)
            rows[-1]["val"] = dict(evaluator.state.metrics)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    _ignite_saves(job, trainer, opt)
    trainer.run(job.train_dl, max_epochs=job.epochs)
    return rows


def ignite_lean(job: Job) -> Rows:
    """Engines around steps of one's own."""
    from ignite.engine import Engine, Events

    net, opt, kept = job.net, adam(job.net, job.fused), Kept(job)

    def step(engine: Any, batch: Any) -> None:
        x, y = batch
        out = net(x)
        loss = F.cross_entropy(out, y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        kept.add(loss, out, y)

    def look(engine: Any, batch: Any) -> None:
        x, y = batch
        out = net(x)
        kept.add(F.cross_entropy(out, y), out, y)

    trainer, evaluator = Engine(step), Engine(look)

    def validate(engine: Any) -> None:
        kept.end("train")
        if job.val_dl is not None:
            net.eval()
            with torch.no_grad():
                evaluator.run(job.val_dl)
            kept.end("val")
            net.train()

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    _ignite_saves(job, trainer, opt)
    trainer.run(job.train_dl, max_epochs=job.epochs)
    return kept.rows


def _skorch(job: Job, verbose: int) -> Rows:
    from skorch import NeuralNetClassifier
    from skorch.callbacks import Callback, EpochScoring
    from skorch.helper import predefined_split

    class Net(NeuralNetClassifier):  # type: ignore[misc, unused-ignore]  # its base is Any where skorch is not installed
        def get_iterator(self, dataset: Any, training: bool = False) -> Any:
            return job.train_dl if training else job.val_dl

    class Saves(Callback):  # type: ignore[misc, unused-ignore]
        steps = 0

        def on_batch_end(self, net: Any, training: bool = False, **others: Any) -> None:
            self.steps += training
            if training and job.save_every is not None and self.steps % job.save_every == 0:
                net.save_params(f_params=f"{job.folder}/params.pt", f_optimizer=f"{job.folder}/optimizer.pt")

    def right(net: Any, data: Any, y: Any) -> float:
        return float((net.predict(data) == y).mean())

    options: dict[str, Any] = {"optimizer__fused": True} if job.fused else {}
    if job.per_sample == 1:  # it finds them out only where it knows the dataset's class
        options["classes"] = list(range(CLASSES))
    # What it scores with takes one target per sample; and its softmax is along the last dimension.
    scoring: Any = "accuracy"
    if job.per_sample > 1:
        scoring = right
        valid = EpochScoring(right, lower_is_better=False, name="valid_acc")
        options.update(predict_nonlinearity=None, callbacks__valid_acc=valid)
    callbacks = [("train_acc", EpochScoring(scoring, lower_is_better=False, on_train=True, name="train_acc"))]
    if job.save_every is not None:
        callbacks.append(("saves", Saves()))
    net = Net(
        job.net,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        max_epochs=job.epochs,
        train_split=None if job.val_dl is None else predefined_split(job.val_dl.dataset),
        callbacks=callbacks,
        verbose=verbose,
        **options,
    )
    net.fit(job.train_dl.dataset, y=None)
    rows = []
    for epoch in net.history:
        row = {"train": {"loss": epoch["train_loss"], "accuracy": epoch["train_acc"]}}
        if "valid_loss" in epoch:
            row["val"] = {"loss": epoch["valid_loss"], "accuracy": epoch["valid_acc"]}
        rows.append(row)
    return rows


def skorch_default(job: Job) -> Rows:
    """Its classifier with its printed table."""
    return _skorch(job, verbose=1)


def skorch_lean(job: Job) -> Rows:
    """Its classifier, printing nothing."""
    return _skorch(job, verbose=0)


def _lightning_saves(job: Job) -> list[Any]:
    from lightning.pytorch.callbacks import ModelCheckpoint

    return [] if job.save_every is None else [ModelCheckpoint(job.folder, every_n_train_steps=job.save_every)]


def lightning_default(job: Job) -> Rows:
    """A module that logs loss and accuracy, and a trainer with its bar, its logger and its checkpoints."""
    import lightning

    rows: Rows = []

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.net = job.net

        def _step(self, batch: Any, stage: str) -> Tensor:
            x, y = batch
            out = self.net(x)
            loss = F.cross_entropy(out, y)
            accuracy = (out.argmax(1) == y).float().mean()
            figures = {f"{stage}_loss": loss, f"{stage}_accuracy": accuracy}
            self.log_dict(figures, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(y))
            return loss

        def training_step(self, batch: Any, index: int) -> Tensor:
            return self._step(batch, "train")

        def validation_step(self, batch: Any, index: int) -> Tensor:
            return self._step(batch, "val")

        def on_train_epoch_end(self) -> None:
            found = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            names = ("train", "val") if job.val_dl is not None else ("train",)
            rows.append({s: {"loss": found[f"{s}_loss"], "accuracy": found[f"{s}_accuracy"]} for s in names})

        def configure_optimizers(self) -> Any:
            return adam(self.net, job.fused)

    trainer = lightning.Trainer(
        max_epochs=job.epochs, accelerator="cpu", default_root_dir=job.folder, num_sanity_val_steps=0,
        enable_checkpointing=job.files, callbacks=_lightning_saves(job),
    )  # fmt: skip
    trainer.fit(Module(), job.train_dl, job.val_dl)
    return rows


def lightning_lean(job: Job) -> Rows:
    """A module that keeps its own figures, and a trainer with everything off that can be."""
    import lightning

    kept = Kept(job)

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.net = job.net

        def on_train_epoch_start(self) -> None:
            kept.begin()

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            out = self.net(x)
            loss = F.cross_entropy(out, y)
            kept.add(loss, out, y)
            if index + 1 == len(job.train_dl):  # validation comes before the end of the training epoch
                kept.end("train")
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            x, y = batch
            out = self.net(x)
            kept.add(F.cross_entropy(out, y), out, y)

        def on_validation_epoch_end(self) -> None:
            kept.end("val")

        def configure_optimizers(self) -> Any:
            return adam(self.net, job.fused)

    trainer = lightning.Trainer(
        max_epochs=job.epochs, accelerator="cpu", default_root_dir=job.folder, num_sanity_val_steps=0, logger=False,
        enable_checkpointing=job.save_every is not None, callbacks=_lightning_saves(job),
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), job.train_dl, job.val_dl)
    return kept.rows


def _accelerate(job: Job, each_step: bool) -> Rows:
    from accelerate import Accelerator

    accelerator, kept = Accelerator(cpu=True), (Read if each_step else Kept)(job)
    net, opt, train_dl = accelerator.prepare(job.net, adam(job.net, job.fused), job.train_dl)
    val_dl = None if job.val_dl is None else accelerator.prepare(job.val_dl)
    steps = 0
    for _ in range(job.epochs):
        net.train()
        for x, y in train_dl:
            out = net(x)
            loss = F.cross_entropy(out, y)
            accelerator.backward(loss)
            opt.step()
            opt.zero_grad()
            steps += 1
            if job.save_every is not None and steps % job.save_every == 0:
                accelerator.save_state(str(job.folder))
            kept.add(loss.detach(), out.detach(), y)
        kept.end("train")
        if val_dl is None:
            continue
        net.eval()
        with torch.no_grad():
            for x, y in val_dl:
                out = net(x)
                loss = F.cross_entropy(out, y)
                kept.add(loss, *(accelerator.gather_for_metrics((out, y)) if each_step else (out, y)))
        kept.end("val")
    return kept.rows


def accelerate_default(job: Job) -> Rows:
    """A loop by hand that reads its figures back after every step, and gathers those of validation."""
    return _accelerate(job, each_step=True)


def accelerate_lean(job: Job) -> Rows:
    """The best loop with everything prepared."""
    return _accelerate(job, each_step=False)


def _torchtnt(job: Job, each_step: bool) -> Rows:
    from torchtnt.framework.callbacks import TQDMProgressBar
    from torchtnt.framework.fit import fit
    from torchtnt.framework.state import State
    from torchtnt.framework.train import train
    from torchtnt.framework.unit import EvalUnit, TrainUnit

    kept = (Read if each_step else Kept)(job)

    class Unit(TrainUnit[Any], EvalUnit[Any]):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.opt = job.net, adam(job.net, job.fused)

        def train_step(self, state: State, data: Any) -> None:
            x, y = data
            out = self.net(x)
            loss = F.cross_entropy(out, y)
            loss.backward()
            self.opt.step()
            self.opt.zero_grad()
            kept.add(loss, out, y)

        def on_train_epoch_end(self, state: State) -> None:
            if job.val_dl is None:
                kept.end("train")

        def on_eval_start(self, state: State) -> None:
            kept.end("train")

        def eval_step(self, state: State, data: Any) -> None:
            x, y = data
            out = self.net(x)
            kept.add(F.cross_entropy(out, y), out, y)

        def on_eval_end(self, state: State) -> None:
            kept.end("val")

    callbacks: list[Any] = [TQDMProgressBar()] if each_step else []
    if job.save_every is not None:
        from torchtnt.framework.callbacks import DistributedCheckpointSaver

        saver = DistributedCheckpointSaver(
            str(job.folder), save_every_n_train_steps=job.save_every, keep_last_n_checkpoints=1
        )
        callbacks.append(saver)
    if job.val_dl is None:
        train(Unit(), job.train_dl, max_epochs=job.epochs, callbacks=callbacks)
    else:
        fit(Unit(), job.train_dl, job.val_dl, max_epochs=job.epochs, callbacks=callbacks)
    return kept.rows


def torchtnt_default(job: Job) -> Rows:
    """A unit that reads its figures back after every step, with its bar."""
    return _torchtnt(job, each_step=True)


def torchtnt_lean(job: Job) -> Rows:
    """A unit that keeps its figures as the best loop does."""
    return _torchtnt(job, each_step=False)


def _poutyne(job: Job, progress: bool) -> Rows:
    from poutyne import Callback, Model

    class Saves(Callback):  # type: ignore[misc, unused-ignore]
        steps = 0

        def on_train_batch_end(self, batch_number: int, logs: Any) -> None:
            self.steps += 1
            if job.save_every is not None and self.steps % job.save_every == 0:
                self.model.save_weights(f"{job.folder}/weights.pt")
                self.model.save_optimizer_state(f"{job.folder}/optimizer.pt")

    model = Model(job.net, adam(job.net, job.fused), "cross_entropy", batch_metrics=["accuracy"], device="cpu")
    logs = model.fit_generator(
        job.train_dl, job.val_dl, epochs=job.epochs, verbose=progress, progress_options={"coloring": False},
        callbacks=[] if job.save_every is None else [Saves()],
    )  # fmt: skip
    rows = []
    for log in logs:
        row = {"train": {"loss": log["loss"], "accuracy": log["acc"] / 100}}
        if "val_loss" in log:
            row["val"] = {"loss": log["val_loss"], "accuracy": log["val_acc"] / 100}
        rows.append(row)
    return rows


def poutyne_default(job: Job) -> Rows:
    """Its model with its bar."""
    return _poutyne(job, progress=True)


def poutyne_lean(job: Job) -> Rows:
    """Its model, showing nothing."""
    return _poutyne(job, progress=False)


def _fastai(job: Job, quiet: bool) -> Rows:
    from fastai.callback.core import Callback
    from fastai.callback.progress import ProgressCallback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner, Recorder
    from fastai.metrics import AvgLoss, AvgMetric, accuracy
    from fastai.optimizer import OptimWrapper

    class Saves(Callback):  # type: ignore[misc, unused-ignore]
        def after_batch(self) -> None:
            if self.training and (self.train_iter + 1) % job.save_every == 0:  # which it counts up behind this
                self.learn.save("last", with_opt=True)

    def right(out: Tensor, y: Tensor) -> Any:
        return accuracy(out, y, axis=1)

    # Its own training loss is a moving average: as a metric it is that of the epoch.
    learner = Learner(
        DataLoaders(job.train_dl, job.val_dl if job.val_dl is not None else []),
        job.net,
        loss_func=F.cross_entropy,
        opt_func=partial(OptimWrapper, opt=torch.optim.Adam, fused=job.fused or None),
        metrics=[AvgLoss(), accuracy if job.per_sample == 1 else AvgMetric(right)],
        cbs=[] if job.save_every is None else [Saves()],
        wd=0.0,
        path=job.folder,
    )
    learner.recorder.train_metrics = True
    if quiet:
        learner.remove_cb(ProgressCallback)
        learner.logger = lambda line: None
    learner.fit(job.epochs, lr=1e-3)
    assert isinstance(learner.recorder, Recorder)
    return _fastai_rows(learner.recorder, "accuracy" if job.per_sample == 1 else "right")


def _fastai_rows(recorder: Any, accuracy: str) -> Rows:
    rows = []
    names = list(recorder.metric_names)[1:-1]  # between the epoch's number and its time
    for values in recorder.values:
        found = dict(zip(names, values, strict=False))  # its own moving average comes before the metric of its name
        row = {"train": {"loss": found["train_loss"], "accuracy": found[f"train_{accuracy}"]}}
        if "valid_loss" in found:
            row["val"] = {"loss": found["valid_loss"], "accuracy": found[f"valid_{accuracy}"]}
        rows.append(row)
    return rows


def fastai_default(job: Job) -> Rows:
    """Its learner with its bar."""
    return _fastai(job, quiet=False)


def fastai_lean(job: Job) -> Rows:
    """Its learner, showing nothing."""
    return _fastai(job, quiet=True)


def _transformers(job: Job, quiet: bool) -> Rows:
    import transformers

    kept = Kept(job)

    class Own(transformers.Trainer):  # type: ignore[misc, name-defined, unused-ignore]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **others: Any) -> Any:
            x, y = inputs
            out = model(x)
            loss = F.cross_entropy(out, y)
            kept.add(loss, out, y)
            return (loss, SimpleNamespace(logits=out)) if return_outputs else loss

        def prediction_step(self, model: Any, inputs: Any, *others: Any, **more: Any) -> Any:
            with torch.no_grad():
                return self.compute_loss(model, inputs).detach(), None, None

        def get_train_dataloader(self) -> Any:
            return job.train_dl

        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            return job.val_dl

        def evaluate(self, *given: Any, **more: Any) -> Any:
            kept.end("train")
            found = super().evaluate(*given, **more)
            kept.end("val")
            return found

    options = transformers.TrainingArguments(
        output_dir=str(job.folder),
        num_train_epochs=job.epochs,
        per_device_train_batch_size=32,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        eval_strategy="no" if job.val_dl is None else "epoch",
        save_strategy="steps" if job.save_every is not None or (job.files and not quiet) else "no",
        save_steps=job.save_every or 500,
        save_total_limit=None if job.save_every is None else 1,
        logging_strategy="no" if quiet else "steps",
        logging_nan_inf_filter=not quiet,  # it reads each loss back
        disable_tqdm=quiet,
    )
    opt = adam(job.net, job.fused)
    trainer = Own(
        job.net,
        options,
        train_dataset=job.train_dl.dataset,
        eval_dataset=None if job.val_dl is None else job.val_dl.dataset,
        optimizers=(opt, torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1.0)),
    )
    if quiet:
        trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return kept.rows


def transformers_default(job: Job) -> Rows:
    """Its trainer with its bar and its logs."""
    return _transformers(job, quiet=False)


def transformers_lean(job: Job) -> Rows:
    """Its trainer with everything off that can be."""
    return _transformers(job, quiet=True)


class Last(torch.nn.Module):
    """A model whose scores come last, (N, sequence, classes), as keras has them."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out.transpose(1, 2)


def _keras(job: Job, verbose: Any) -> Rows:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    example = next(iter(job.train_dl))[0]
    kind = str(example.dtype).removeprefix("torch.")
    net = keras.layers.TorchModuleWrapper(job.net if job.per_sample == 1 else Last(job.net))
    model = keras.Sequential([keras.Input(tuple(example.shape[1:]), dtype=kind), net])
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3, epsilon=1e-8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    callbacks = []
    if job.save_every is not None:
        callbacks.append(keras.callbacks.BackupAndRestore(str(job.folder), save_freq=job.save_every))
    found = model.fit(
        job.train_dl, validation_data=job.val_dl, epochs=job.epochs, verbose=verbose, callbacks=callbacks
    ).history
    rows: Rows = []
    for epoch in range(job.epochs):
        rows.append({"train": {name: found[name][epoch] for name in ("loss", "accuracy")}})
        if job.val_dl is not None:
            rows[-1]["val"] = {name: found[f"val_{name}"][epoch] for name in ("loss", "accuracy")}
    return rows


def keras_default(job: Job) -> Rows:
    """Its model around the module, with its bar."""
    return _keras(job, "auto")


def keras_lean(job: Job) -> Rows:
    """Its model around the module, showing nothing."""
    return _keras(job, 0)


_OWN_STEPS = ("accuracy", "macro")


def _peer(
    library: str,
    default: Callable[[Job], Rows],
    lean: Callable[[Job], Rows],
    default_reports: tuple[str, ...] = ("accuracy",),
    lean_reports: tuple[str, ...] = ("accuracy",),
    tolerance: float = 1e-5,
) -> list[Contender]:
    common = partial(Contender, tolerance=tolerance, module=MODULES[library], saves=True)
    return [
        common(f"{library} default", default, like="naive", fused=False, around=to_pipe, reports=default_reports),
        common(f"{library} lean", lean, reports=lean_reports),
    ]


#: What each reports beside loss and accuracy: where the step is one's own, whatever the best loop does.
PEERS = [
    *_peer("ignite", ignite_default, ignite_lean, lean_reports=_OWN_STEPS),
    *_peer("skorch", skorch_default, skorch_lean),
    *_peer("lightning", lightning_default, lightning_lean, lean_reports=_OWN_STEPS),
    *_peer("accelerate", accelerate_default, accelerate_lean, _OWN_STEPS, _OWN_STEPS),
    *_peer("torchtnt", torchtnt_default, torchtnt_lean, _OWN_STEPS, _OWN_STEPS),
    *_peer("poutyne", poutyne_default, poutyne_lean),
    *_peer("fastai", fastai_default, fastai_lean),
    *_peer("transformers", transformers_default, transformers_lean, _OWN_STEPS, _OWN_STEPS),
    *_peer("keras", keras_default, keras_lean, tolerance=5e-2),  # its Adam has its epsilon elsewhere
]
